"""The command that measures co-location, as it is typed."""

import json
import os
import shutil
import signal

import pytest

from dlrm_jax.colocate import report, request, results, study
from dlrm_jax.colocate.__main__ import main
from dlrm_jax.colocate.engine import Part, Times
from dlrm_jax.colocate.models import Bytes
from dlrm_jax.colocate.picture import picture
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.load import load
from tests.commands import Command, run, wait_until

TINY = '--scale=0.0001', '--sizes=20', '--seconds=0.3'
TWO = sorted(os.sched_getaffinity(0))[:2]


def wanted_of(*flags):
  parser = Parser(prog='colocate')
  request.add_flags(parser)
  return request.wanted_of(vars(parser.parse_args(flags)))


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], ['--models']),
    (['--models=rmc4', '--sla_ms=9'], ["'rmc4'", 'rmc1', 'NAME=DIR']),
    (['--models=rmc1,rmc1', '--sla_ms=9'], ['rmc1 is there twice']),
    (['--models=ctr=', '--sla_ms=9'], ["'ctr='", 'NAME=DIR']),
    (['--models=ctr=no/dir', '--sla_ms=9'], ['no/dir', 'no such folder']),
    (['--models=rmc1'], ['--sla_ms=MS', '--rate=QPS']),
    (['--models=rmc1', '--sla_ms=no'], ['--sla_ms=no', 'ms above 0']),
    (['--models=rmc1', '--sla_ms=1,2'], ['2 targets for 1 models']),
    (['--models=rmc1', '--rate=0'], ['--rate=0', 'above 0']),
    (['--models=rmc1', '--rate=1', '--copies=0'], ['--copies=0', '1 ... 64']),
    (['--models=rmc1', '--rate=1', '--copies='], ['--copies is empty']),
    (['--models=rmc1', '--rate=1', '--storage=int9'], ["'int9'", 'bfloat16']),
    (['--models=rmc1', '--rate=1', '--cores=999'], ["'999'", 'no core']),
    (['--models=rmc1', '--rate=1', '--split=8'], ['--split=8', '--cores=0+1']),
    (['--models=rmc1', '--rate=1', '--scale=-1'], ['--scale=-1', 'above 0']),
    (['--models=rmc1', '--rate=1', '--sizes=odd'], ['--sizes=odd', 'normal']),
    (['--models=rmc1', '--rate=1', '--percentile=100'], ['--percentile=100']),
    (['--models=rmc1', '--rate=1', '--exponent=-1'], ['--exponent=-1', '20']),
    (['--models=rmc1', '--rate=1', '--seconds=0'], ['--seconds=0']),
    (['--models=rmc1', '--rate=1', '--seed=-1'], ['--seed=-1']),
    (['--models=rmc1', '--rate=1', '--output=x.txt'], ['x.txt', '.md']),
    (['--models=a=x', '--rate=1', '--storage=int8'], ['--storage=int8']),
    (
      ['--models=rmc3', '--rate=1', '--scale=100', '--copies=4'],
      ['4 engines need 1.03 TB', '256 GB each', '--scale'],
    ),
  ],
)
def test_a_wrong_flag_ends_in_one_line(flags, words, capsys):
  assert main(flags) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: ')
  assert len(said.splitlines()) == 1
  for word in words:
    assert word in said


@pytest.mark.skipif(len(TWO) < 2, reason='one core')
def test_cores_are_given_to_engines_in_turn_or_together():
  a, b = TWO
  each = wanted_of('--models=rmc1', '--rate=1', f'--cores={b},{a}')
  assert each.cores == [(b,), (a,)]
  assert each.split == 1024
  both = wanted_of('--models=rmc1', '--rate=1', f'--cores={a}+{b}')
  assert both.cores == [(a, b)]
  assert both.split == 32
  for cores in (f'{a},{a}', f'{a}+{a}', ''):
    with pytest.raises(InputError, match=r'--cores='):
      wanted_of('--models=rmc1', '--rate=1', f'--cores={cores}')


def test_targets_are_one_for_all_or_one_for_each():
  models = '--models=rmc1,rmc3'
  assert wanted_of(models, '--sla_ms=20').bounds == {'rmc1': 0.02, 'rmc3': 0.02}
  each = wanted_of(models, '--sla_ms=100,400').bounds
  assert each == {'rmc1': 0.1, 'rmc3': 0.4}


def test_more_memory_than_there_is_is_refused_with_the_numbers():
  wanted = wanted_of('--models=rmc1', '--rate=1', '--copies=1,3')
  sizes = {wanted.specs[0]: Bytes(2_000_000_000, 1_000_000_000)}
  needed = 3 * (2.0 + 0.6) + 1.0
  study.check_room(wanted, sizes, free=int(needed * 1e9))
  with pytest.raises(InputError, match=r'need 8\.8 GB.*there are 8\.7 GB'):
    study.check_room(wanted, sizes, free=int(8.7e9))


def test_the_estimate_grows_with_models_engines_and_seconds():
  def estimate(*flags):
    wanted = wanted_of('--sla_ms=9', *flags)
    kept = dict.fromkeys(wanted.specs, Bytes(10**9, 0))
    return study.duration_of(wanted, kept)

  one = estimate('--models=rmc1', '--copies=1', '--seconds=5')
  assert estimate('--models=rmc1', '--copies=1,2', '--seconds=5') > 1.9 * one
  assert estimate('--models=rmc1', '--copies=1', '--seconds=50') > 3 * one
  assert estimate(
    '--models=rmc1,rmc2', '--copies=1', '--seconds=5'
  ) == pytest.approx(2 * one)


@pytest.mark.slow
def test_a_study_is_measured_and_written(export, tmp_path):
  page = tmp_path / 'study.md'
  done = run(
    [
      *('-m', 'dlrm_jax.colocate', f'--models=rmc1,ctr={export}', *TINY),
      *('--storage=float32,int8', '--copies=1,2', '--sla_ms=60000'),
      f'--output={page}',
    ]
  )
  plan = done.stdout.splitlines()
  assert plan[0].startswith('models    rmc1, tables float32')
  assert any(line.startswith('time      about') for line in plan)
  assert sum('keep p95' in line for line in plan) == 6
  found = json.loads(page.with_suffix('.json').read_text())
  assert found['missing'] == 0
  assert [(m['model'], m['storage']) for m in found['models']] == [
    ('rmc1', 'float32'),
    ('rmc1', 'int8'),
    ('ctr', 'as stored'),
  ]
  for model in found['models']:
    assert [point['engines'] for point in model['points']] == [1, 2]
    rates = [point['kept_qps'] for point in model['points']]
    for point in model['points']:
      # So wide a target is kept at all rates that are tried.
      share = point['kept_qps'] / point['capacity_qps']
      assert share == pytest.approx(31 / 32)
      assert point['latency']['rate'] == min(rates)
      assert point['latency']['p50'] <= point['latency']['p99']
      assert point['batch_rows'] == 24
      parts = point['batch_seconds']
      assert all(part['cpu'] > 0 for part in parts.values())
  text = page.read_text()
  assert '## rmc1' in text
  assert '## ctr' in text
  assert 'not measured yet' not in text
  assert page.with_suffix('.svg').read_bytes().startswith(b'<?xml')


@pytest.mark.slow
@pytest.mark.skipif(len(TWO) < 2, reason='one core')
def test_at_a_given_rate_latencies_alone_are_measured():
  a, b = TWO
  done = run(
    [
      *('-m', 'dlrm_jax.colocate', '--models=rmc3', *TINY, '--copies=1'),
      *('--rate=50', '--split=8', f'--cores={a}+{b}'),
    ]
  )
  assert 'rate      50 queries/s of each engine' in done.stdout
  assert 'A batch of 8, ms' in done.stdout
  header, _, row = [x for x in done.stdout.splitlines() if x[:1] == '|'][:3]
  cells = dict(
    zip(
      [x.strip() for x in header.split('|')],
      [x.strip() for x in row.split('|')],
      strict=True,
    )
  )
  assert 'keep QPS' not in cells
  assert cells['at QPS'] == '50'
  assert float(cells['p50 ms']) <= float(cells['p99 ms'])


@pytest.mark.slow
def test_interrupted_it_keeps_what_it_has_and_leaves_no_engine(tmp_path):
  page = tmp_path / 'study.md'
  command = [
    *('-m', 'dlrm_jax.colocate', '--models=rmc1', *TINY, '--copies=1,2'),
    *('--storage=float32,int8', '--rate=20', f'--output={page}'),
  ]
  with Command(command) as running:
    wait_until(page.with_suffix('.json').exists, running)
    children = engines_of(running)
    running.send(signal.SIGINT)
    done = running.end()
  assert done.status == 130
  assert len(done.stderr.splitlines()[-1:]) == 1
  assert 'SIGINT' in done.stderr
  assert 'points are not measured yet' in page.read_text()
  found = json.loads(page.with_suffix('.json').read_text())
  assert 0 < found['missing'] < 4
  wait_until(lambda: not any(map(alive, children)))
  # The same command goes on, and repeats nothing.
  before = [m for m in found['models'] if len(m['points']) == 2]
  done = run(command)
  assert 'not measured yet' not in page.read_text()
  found = json.loads(page.with_suffix('.json').read_text())
  assert found['missing'] == 0
  for model in before:
    if all(point['latency'] for point in model['points']):
      assert model in found['models']
  again = run(command)
  assert 'measured  2 of 2 models' in again.stdout
  assert 'a batch of' not in again.stdout
  assert json.loads(page.with_suffix('.json').read_text()) == found


@pytest.mark.slow
def test_engines_end_with_a_parent_that_is_killed(tmp_path):
  page = tmp_path / 'study.md'
  command = [
    *('-m', 'dlrm_jax.colocate', '--models=rmc1', *TINY, '--copies=1,2'),
    *('--rate=20', f'--output={page}'),
  ]
  with Command(command) as running:
    wait_until(page.with_suffix('.json').exists, running)
    children = engines_of(running)
    running.kill()
  wait_until(lambda: not any(map(alive, children)))


def engines_of(running):
  """Numbers of the processes that a command has started."""
  number = running._process.pid
  with open(f'/proc/{number}/task/{number}/children') as file:
    found = [int(word) for word in file.read().split()]
  assert len(found) >= 2
  return found


def alive(number):
  """Whether a process runs, and is no zombie."""
  try:
    with open(f'/proc/{number}/stat') as file:
      return file.read().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


def study_of(*flags, models=('--models=rmc1', '--storage=float32,int8')):
  """A study of which the first model is measured."""
  wanted = wanted_of(*models, '--copies=1,2', *flags)
  part = Part(0.002, 0.001)
  times = Times(0.0, 0.0, 192, 9, part, part, part)
  tail = study.Tail(8.0, 100, 0.003, 0.004, 0.005, 0.0)
  spec = wanted.specs[0]
  points = [study.Point(spec, n, times, 10.0 / n, 8.0, tail) for n in (1, 2)]
  sizes = dict.fromkeys(wanted.specs, Bytes(10, 0))
  return study.Study(wanted, sizes, {spec: points})


def test_what_is_written_is_read_again(tmp_path):
  page = tmp_path / 'study.md'
  found = study_of('--sla_ms=20')
  assert results.read(found.wanted, page) == {}
  report.write(found, page)
  assert results.read(found.wanted, page) == found.points
  assert found.left.specs == found.wanted.specs[1:]
  assert (found.missing, found.is_complete(found.wanted.specs[0])) == (2, True)


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--sla_ms=20', '--seconds=3'], 'measured with seconds 10.0, not 3.0'),
    (['--sla_ms=20', '--seed=1'], 'measured with seed 0, not 1'),
    (['--sla_ms=30'], 'results of rmc1, tables float32, .* another target'),
    (['--sla_ms=20', '--scale=0.5'], 'results of rmc1, tables float32'),
  ],
)
def test_results_of_other_settings_are_not_mixed(flags, words, tmp_path):
  page = tmp_path / 'study.md'
  report.write(study_of('--sla_ms=20'), page)
  with pytest.raises(InputError, match=words):
    results.read(study_of(*flags).wanted, page)


def test_results_of_another_machine_are_not_mixed(tmp_path):
  page = tmp_path / 'study.md'
  study = study_of('--sla_ms=20')
  report.write(study, page)
  path = page.with_suffix('.json')
  found = json.loads(path.read_text())
  for name in ('processor', 'device', 'system', 'jax'):
    changed = found['environment'] | {name: 'old'}
    path.write_text(json.dumps(found | {'environment': changed}))
    with pytest.raises(InputError, match=f'measured with {name} old, not '):
      results.read(study.wanted, page)


def test_results_of_what_was_in_a_folder_before_are_not_mixed(
  plain, two_labels, tmp_path
):
  folder, page = tmp_path / 'model', tmp_path / 'study.md'
  shutil.copytree(plain.folder, folder)
  models = [f'--models=ctr={folder}']
  found = study_of('--sla_ms=20', models=models)
  report.write(found, page)
  load(folder)
  again = study_of('--sla_ms=20', models=models)
  assert results.read(again.wanted, page) == found.points
  shutil.rmtree(folder)
  shutil.copytree(two_labels.folder, folder)
  with pytest.raises(InputError, match=r'results of ctr, .* content of it'):
    results.read(study_of('--sla_ms=20', models=models).wanted, page)


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"copies": [1, 2]}'])
def test_files_that_are_no_results_are_refused(text, tmp_path):
  (tmp_path / 'study.json').write_text(text)
  with pytest.raises(InputError, match='no results of this command'):
    results.read(study_of('--sla_ms=20').wanted, tmp_path / 'study.md')


def test_a_page_of_points_that_keep_no_rate_is_drawn():
  wanted = wanted_of('--models=rmc1', '--sla_ms=1', '--copies=1,2')
  spec = wanted.specs[0]
  part = Part(0.002, 0.001)
  times = Times(0, 1, 192, 9, part, part, part)
  point = study.Point(spec, 1, times, 10.0, 0.0)
  found = study.Study(wanted, {spec: Bytes(10, 0)}, {spec: (point,)})
  assert found.missing == 1
  text = report.markdown(found, 'x.svg')
  assert '| float32 |       1 |      1 |      10 |        0 |      0 |' in text
  assert picture(found) == picture(found)
