"""A profile: moments are divided rightly, and a run does not notice it."""

import gzip
import json
import math
import re

import pytest

from dlrm_jax.run.parts import OTHER, PARTS, Span, divide, parts_of
from tests import job

HLO = """HloModule jit_train_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} negate(%p), metadata={op_name="jit(train_step)/mul"}
  ROOT %root = f32[8]{0} add(%inner, %p), metadata={op_name="jit(train_step)/update/add"}
}

%body (t: (f32[8], s32[])) -> (f32[8], s32[]) {
  %t = (f32[8]{0:T(8,128)S(1)}, s32[]) parameter(0)
  %top.1 = f32[8]{0} dot(%t), metadata={op_name="jit(train_step)/while/body/jvp(layers)/top/dot"}
  ROOT %r = (f32[8]{0}, s32[]) tuple(%top.1)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0), metadata={op_name="state.params"}
  %copied = f32[8]{0} copy(%x)
  %gather.3 = f32[8]{0} gather(%x), metadata={op_name="jit(train_step)/lookup/gather"}
  %changed = f32[8]{0} copy(%gather.3)
  %while = (f32[8]{0}, /*index=1*/s32[]) while(%changed), body=%body, metadata={op_name="jit(train_step)/while"}
  %top.2 = f32[8]{0} dot(%changed), metadata={op_name="jit(train_step)/transpose(jvp(layers))/top/dot"}
  %sum = f32[8]{0} all-reduce-start(%top.2), to_apply=%add, metadata={op_name="jit(train_step)/transpose(jvp(layers))/psum"}
  %sorted = f32[8]{0} sort(%sum), metadata={op_name="jit(train_step)/update/exchange/sort"}
  ROOT %fusion = f32[8]{0} fusion(%sorted), kind=kLoop, calls=%fused
}
"""  # noqa: E501


def test_an_instruction_has_the_part_of_its_place_in_the_code():
  found = parts_of(HLO)
  assert found['gather.3'] == 'lookup'
  assert found['top.1'] == 'forward'
  assert found['top.2'] == 'backward'
  assert found['sorted'] == 'exchange'
  assert found['root'] == 'update'


def test_collectives_are_exchange_wherever_they_stand():
  assert parts_of(HLO)['sum'] == 'exchange'


def test_what_has_no_place_takes_that_of_its_result_or_operand():
  found = parts_of(HLO)
  assert found['fusion'] == 'update'
  assert found['changed'] == 'lookup'
  assert found['copied'] == 'other'


def test_a_loop_is_what_it_runs():
  assert parts_of(HLO)['while'] is None


def times(spans, start=0, stop=100):
  found = divide(spans, start, stop)
  assert tuple(found) == PARTS
  assert math.isclose(sum(found.values()), stop - start)
  return {part: time for part, time in found.items() if time}


def test_operations_side_by_side_share_their_time():
  spans = [
    Span(0, 60, 'forward'),
    Span(30, 60, 'forward'),
    Span(40, 60, 'lookup'),
    Span(60, 100, 'update'),
  ]
  assert times(spans) == pytest.approx(
    {'forward': 40 + 20 * 2 / 3, 'lookup': 20 / 3, 'update': 40}
  )


def test_input_counts_only_where_it_is_waited_for():
  spans = [Span(10, 40, 'input'), Span(20, 50, 'other')]
  assert times(spans) == {'input': 10, 'other': 30, 'idle': 60}


def test_what_lies_outside_is_cut_off():
  spans = [
    Span(-10, 20, 'lookup'),
    Span(90, 130, 'update'),
    Span(-5, -1, OTHER),
  ]
  assert times(spans) == {'lookup': 20, 'update': 10, 'idle': 70}


def train(workdir, *flags):
  """What a small job prints, as one process runs it."""
  command = (
    *('train.py', '--config=tests/small.py', f'--workdir={workdir}'),
    *('--config.train.batch_size=2048', '--config.train.steps=3'),
    *('--config.train.fresh_tables=False', '--config.data.synthetic.test=3000'),
  )
  return job.run([*command, *flags], 1)[0][1]


def contents(workdir):
  """Of all files but those of profiles."""
  return {
    path.relative_to(workdir): path.read_bytes()
    for path in workdir.rglob('*')
    if path.is_file() and 'profile' not in path.relative_to(workdir).parts
  }


@pytest.fixture(scope='module')
def profiled(tmp_path_factory):
  """A folder with a profile and nothing else, and what was printed."""
  workdir = tmp_path_factory.mktemp('profiles') / 'run'
  return workdir, train(workdir, '--profile=5')


def test_the_table_has_all_parts_and_their_sum(profiled):
  rows = re.findall(r'^  (\w+) +([\d.]+) +([\d.]+) %$', profiled[1], re.M)
  assert [name for name, _, _ in rows] == [*PARTS, 'all']
  ms = {name: float(found) for name, found, _ in rows}
  whole = ms.pop('all')
  assert sum(ms.values()) == pytest.approx(whole, abs=0.0006 * len(PARTS))
  assert all(ms[part] > 0 for part in ('lookup', 'forward', 'backward'))
  assert ms['update'] > 0
  assert ms['exchange'] == 0  # one device
  speed = re.search(r'([\d,]+) examples/s', profiled[1])[1]
  assert int(speed.replace(',', '')) == pytest.approx(2048e3 / whole, rel=0.01)


def test_the_trace_has_the_recorded_steps(profiled):
  (folder,) = (profiled[0] / 'profile' / 'plugins' / 'profile').iterdir()
  assert str(folder) in profiled[1]
  assert list(folder.glob('*.xplane.pb'))  # what TensorBoard opens
  with gzip.open(folder / 'perfetto_trace.json.gz') as file:
    events = json.load(file)['traceEvents']
  names = [event.get('name') for event in events]
  assert names.count('step') == names.count('input') == 5


@pytest.mark.slow
def test_a_run_does_not_notice_profiles(profiled, tmp_path):
  workdir, _ = profiled
  assert contents(workdir) == {}
  train(workdir)
  train(tmp_path)
  name = 'results.json'
  assert (workdir / name).read_text() == (tmp_path / name).read_text()
  before = contents(workdir)
  train(workdir, '--profile=2', '--config.train.batch_size=1024')
  assert contents(workdir) == before


@pytest.mark.slow
def test_each_process_leaves_a_trace_and_the_first_one_prints(tmp_path):
  command = (
    *('train.py', '--config=tests/small.py', f'--workdir={tmp_path}'),
    *('--config.train.fresh_tables=False', '--profile=2'),
    '--config.train.batch_size=2048',
  )
  done = job.run(command, 2)
  assert float(re.search(r'exchange +([\d.]+)', done[0][1])[1]) > 0
  assert 'part of a step' not in done[1][1]
  for process in range(2):
    folder = tmp_path / 'profile' / f'process_{process}'
    assert len(list(folder.rglob('*.xplane.pb'))) == 1


def test_processes_that_differ_do_not_wait_for_each_other(tmp_path):
  command = 'train.py', '--config=tests/small.py', f'--workdir={tmp_path}'
  own = {0: ['--profile=2'], 1: ['--profile=3']}
  done = job.run(command, 2, status=1, own=own)
  assert 'process 1' in done[0][2] + done[1][2]
  assert not list(tmp_path.rglob('*.xplane.pb'))
