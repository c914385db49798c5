"""The command that measures traces."""

import pytest

from dlrm_jax.prepare import __main__ as prepare
from dlrm_jax.traces import __main__ as command
from dlrm_jax.traces.trace_files import read_dist_emb, read_traces
from tests.traces.examples import PUBLISHED


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A Criteo log of 300 rows, whose C1 has five values in turn."""
  folder = tmp_path_factory.mktemp('set')
  rows = (
    '\t'.join(['1', *['3'] * 13, f'{i % 5:x}', *['68fd1e64'] * 25])
    for i in range(300)
  )
  (folder / 'log.txt').write_text('\n'.join(rows) + '\n')
  flags = [f'--input={folder}/log.txt', f'--output={folder}/data']
  assert prepare.main(['criteo', *flags, '--splits=train=0.5,test=0.5']) == 0
  return folder / 'data'


def test_the_command_measures_a_prepared_set(prepared, tmp_path, capsys):
  path = tmp_path / 'trace.json'
  flags = [f'--data={prepared}', '--split=test', '--examples=100']
  assert command.main([*flags, f'--output={path}']) == 0
  found = read_traces(path)
  assert list(found) == [f'C{i}' for i in range(1, 27)]
  # Five values and the unknown one; each has a fifth of the accesses.
  assert (found['C1'].rows, found['C1'].hot) == (6, 5)
  assert found['C1'].exponent == pytest.approx(0, abs=1e-3)
  assert (found['C2'].rows, found['C2'].hot) == (2, 1)
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[2:-1]] == list(found)


def test_an_output_that_can_not_be_written_is_told_before_measuring(
  tmp_path, capsys
):
  output = tmp_path / 'none' / 'trace.json'
  assert command.main([f'--data={tmp_path}', f'--output={output}']) == 1
  said = capsys.readouterr().err
  assert f'--output={output}: {tmp_path / "none"} is no folder' in said
  assert len(said.splitlines()) == 1


def test_the_command_takes_published_files(tmp_path):
  path, output = tmp_path / 'dist_emb_0.log', tmp_path / 'trace.json'
  path.write_text(PUBLISHED)
  flags = ['--dist_emb', str(path), str(path), f'--output={output}']
  assert command.main(flags) == 0
  assert read_traces(output) == dict.fromkeys(('C1', 'C2'), read_dist_emb(path))


@pytest.mark.parametrize(
  ('flags', 'told'),
  [
    ([], 'one of the arguments --data --dist_emb is required'),
    (['--data={data}', '--split=dev'], "no split 'dev'"),
    (['--data={data}', '--examples=0'], '--examples=0: expected 1 or more'),
    (['--data=none'], 'none is not a prepared set'),
  ],
)
def test_mistakes_at_the_command_are_one_line(
  prepared, tmp_path, capsys, flags, told
):
  flags = [flag.format(data=prepared) for flag in flags]
  assert command.main([*flags, f'--output={tmp_path}/trace.json']) == 1
  error = capsys.readouterr().err
  assert told in error
  assert error.count('\n') == 1
