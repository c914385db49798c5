"""Preparing with Apache Beam; most needs it: pip install dlrm_jax[beam]."""

import importlib.util
import random
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare import beam
from dlrm_jax.prepare.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
HERE = '--runner=FnApiRunner'
PROCESSES = (
  # With the last option, the DirectRunner does not look for a program, Prism,
  # on the network, which does not know the two before.
  '--runner=DirectRunner --direct_running_mode=multi_processing '
  '--direct_num_workers=2 --allow_unsafe_triggers'
)
needs_beam = pytest.mark.skipif(
  importlib.util.find_spec('apache_beam') is None,
  reason='apache-beam is not installed: pip install dlrm_jax[beam]',
)
pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings('default'),  # Beam has many
]


def rows(seed, count=300):
  draw = random.Random(seed)
  for _ in range(count):
    integers = [draw.choice(['', str(draw.randrange(99))]) for _ in range(13)]
    categories = [f'{draw.randrange(40) ** 3:08x}' for _ in range(26)]
    yield '\t'.join([str(draw.randrange(2)), *integers, *categories])


@pytest.fixture
def logs(tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  paths = [tmp_path / f'day_{day}' for day in range(3)]
  for day, path in enumerate(paths):
    path.write_text('\n'.join(rows(day)) + '\n')
  return paths


def prepare(output, logs, *flags):
  return main(
    ['criteo', f'--output={output}', '--input', *map(str, logs), *flags]
  )


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@needs_beam
def test_processes_of_beam_make_the_same_bytes(tmp_path, logs):
  assert prepare(tmp_path / 'plain', logs) == 0
  assert prepare(tmp_path / 'beam', logs, f'--beam={PROCESSES}') == 0
  plain = contents(tmp_path / 'plain')
  assert len(plain) > 30
  assert contents(tmp_path / 'beam') == plain


@needs_beam
@pytest.mark.parametrize('runner', [HERE, PROCESSES])
def test_a_mistake_that_a_worker_meets_is_the_same_line(
  tmp_path, logs, capfd, runner
):
  with logs[1].open('a') as file:
    file.write('2\tthree\n')
  lines = []
  for flags in ([], [f'--beam={runner}']):
    assert prepare(tmp_path / 'set', logs, *flags) == 1
    lines.append(capfd.readouterr().err.splitlines()[-1])
  assert f'{logs[1]}, line 301' in lines[0]
  assert lines[1] == lines[0]


class Unit(NamedTuple):
  output: Path


def forget(unit):
  """Does not write, as a worker that shares no files with this machine."""


def look(unit):
  (unit.output.parent / 'absent').read_bytes()


@needs_beam
@pytest.mark.parametrize(
  ('function', 'why'),
  [(forget, 'out.0 is not here'), (look, 'absent: a worker of Beam')],
)
def test_files_that_are_not_shared_are_told(
  tmp_path, monkeypatch, function, why
):
  monkeypatch.setattr(beam, '_PATIENCE', 0)
  monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
  stage = beam.running(HERE, tmp_path)
  with pytest.raises(InputError, match=why):
    stage('stage', function, [Unit(tmp_path / f'out.{n}') for n in range(2)])


@needs_beam
def test_a_stage_with_nothing_left_starts_no_pipeline(tmp_path):
  (tmp_path / 'out').touch()
  beam.running(HERE, tmp_path)('stage', look, [Unit(tmp_path / 'out')])
  assert [path.name for path in tmp_path.iterdir()] == ['out']


@needs_beam
@pytest.mark.parametrize(
  ('options', 'why'),
  [
    ('--runner=NoRunner', 'Unexpected pipeline runner: NoRunner'),
    ('--direct_num_workers=two', "invalid int value: 'two'"),
  ],
)
def test_wrong_options_of_beam_end_in_one_line(
  tmp_path, logs, capfd, options, why
):
  assert prepare(tmp_path / 'set', logs, f'--beam={options}') == 1
  line = capfd.readouterr().err.splitlines()[-1]
  assert line.startswith('error: --beam=')
  assert why in line
  assert not (tmp_path / 'set.unfinished').exists()


def test_without_beam_the_line_says_how_to_install_it(
  tmp_path, logs, capsys, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  assert prepare(tmp_path / 'set', logs, '--beam=') == 1
  assert 'pip install' in capsys.readouterr().err
