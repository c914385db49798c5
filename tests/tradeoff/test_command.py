"""The command that compares encodings: whole studies, as they are typed."""

import functools
import json
import math
import os
import shutil
import signal
import statistics

import pytest

from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.errors import InputError
from dlrm_jax.run import workdir
from dlrm_jax.sweep.trials import Trial, make_folder
from tests import small
from tests.commands import Command, checkpoints, run, signal_itself, wait_until

pytestmark = pytest.mark.slow

STUDY = '--encodings=hashed', '--ratios=2', '--seeds=2'
RUNS = ['hashed-2-0', 'hashed-2-1', 'plain-1-0', 'plain-1-1']


def command(workdir, *arguments):
  return [
    *('-m', 'dlrm_jax.tradeoff', '--config=tests/small.py'),
    *(f'--workdir={workdir}', '--config.tables.threshold=0'),
    *('--config.train.steps=12', '--config.train.eval_every=4', *arguments),
  ]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A study of four runs, and what it printed."""
  workdir = tmp_path_factory.mktemp('studies') / 'whole'
  return workdir, run(command(workdir, *STUDY)).stdout


def numbers(workdir):
  return json.loads((workdir / 'tradeoff.json').read_text())


def test_the_plan_comes_first_then_a_line_a_run_with_the_time_left(finished):
  lines = finished[1].splitlines()
  text = ' '.join(finished[1].split())
  assert 'runs 4: 2 kinds of tables, seeds 0, 1; 0 done' in text
  assert 'plain 1 600 parameters 2.4 kB' in text
  assert 'hashed 2 300 parameters 1.2 kB 1/2' in text
  results = [line for line in lines if 'took' in line]
  assert len(results) == 4
  assert all('test AUC 0.' in line for line in results)
  assert 'left for 3' in results[0]
  assert 'all done' in results[3]
  assert len(lines) < 20


def test_each_run_has_a_folder_as_train_makes_it(finished):
  folder = finished[0] / 'runs'
  assert sorted(os.listdir(folder)) == RUNS
  for name in RUNS:
    config = json.loads((folder / name / 'config.json').read_text())
    assert f'{config["tables"]["encoding"]}-' in name
    assert name.endswith(f'-{config["seed"]}')
    assert (folder / name / 'report.html').exists()
    assert 'tables' in (folder / name / 'log.txt').read_text()


def test_numbers_are_those_of_the_runs(finished):
  found = numbers(finished[0])
  plain, hashed = found['points']
  assert (hashed['encoding'], hashed['ratio_asked']) == ('hashed', 2)
  assert (plain['bytes'], hashed['bytes']) == (2400, 1200)
  for seed, one in enumerate(hashed['runs']):
    path = finished[0] / 'runs' / f'hashed-2-{seed}' / 'results.json'
    scores = json.loads(path.read_text())['splits']['test']
    assert one == {'seed': seed} | scores
  losses = [[r['log_loss'] for r in p['runs']] for p in (plain, hashed)]
  differences = [b - a for a, b in zip(*losses, strict=True)]
  assert hashed['log_loss']['mean'] == pytest.approx(sum(losses[1]) / 2)
  assert hashed['log_loss']['beyond_plain']['deviation'] == pytest.approx(
    statistics.stdev(differences)
  )


def test_picture_and_table_are_there(finished):
  picture = (finished[0] / 'tradeoff.png').read_bytes()
  assert picture[:8] == b'\x89PNG\r\n\x1a\n'
  assert int.from_bytes(picture[16:20]) == 1600
  table = (finished[0] / 'tradeoff.md').read_text().splitlines()
  assert [row.split(' | ')[0].rstrip() for row in table[-2:]] == [
    '| `plain`',
    '| `hashed`',
  ]


def test_the_same_command_again_trains_nothing_and_draws(finished):
  before = numbers(finished[0])
  (finished[0] / 'tradeoff.json').unlink()
  again = run(command(finished[0], *STUDY))
  assert '; 4 done' in again.stdout
  assert 'took' not in again.stdout
  assert numbers(finished[0]) == before


def test_more_of_a_study_trains_only_what_is_new(finished, tmp_path):
  # In a copy, as other tests look at the runs of this one.
  shutil.copytree(finished[0], tmp_path / 'more')
  more = '--encodings=hashed', '--ratios=2,3', '--seeds=1'
  out = run(command(tmp_path / 'more', *more)).stdout
  assert '; 2 done' in out
  assert out.count('took') == 1
  assert 'hashed at 3, seed 0' in out
  assert len(numbers(tmp_path / 'more')['points']) == 3


@pytest.mark.slow
def test_killed_it_goes_on_in_the_run_it_was_in(finished, tmp_path):
  workdir, one_seed = tmp_path / 'killed', (*STUDY, '--seeds=1')
  dies = functools.partial(signal_itself, signal.SIGKILL, 8)
  with Command(command(workdir, *one_seed), before=dies) as process:
    assert process.end().status == -signal.SIGKILL
  first = workdir / 'runs' / 'plain-1-0'
  assert max(checkpoints(first)) < 8
  run(command(workdir, *one_seed))
  assert 'resuming from the checkpoint' in (first / 'log.txt').read_text()
  for ours, whole in zip(
    numbers(workdir)['points'], numbers(finished[0])['points'], strict=True
  ):
    assert ours['runs'] == whole['runs'][:1]


def test_interrupted_it_says_so_to_a_shell(tmp_path):
  endless = command(tmp_path, *STUDY, '--config.train.steps=1000000')
  with Command(endless) as process:
    wait_until(lambda: checkpoints(tmp_path / 'runs' / 'plain-1-0'), process)
    process.send(signal.SIGINT)
    done = process.end()
  assert 'stopped; the same command' in done.stdout
  assert done.status == 130


def test_runs_of_another_config_are_refused_by_field(finished):
  changed = run(
    command(finished[0], *STUDY, '--config.train.batch_size=512'), status=1
  )
  assert 'plain-1-0 was made by another run' in changed.stderr
  assert 'train.batch_size was 256, is 512' in changed.stderr
  assert len(changed.stderr.splitlines()) == 1


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--encodings=nonsense'], ['--encodings=nonsense', 'quotient_remainder']),
    (['--encodings=hashed:sum'], ['--encodings=hashed:sum', 'concat']),
    (['--ratios=0'], ['--ratios=0']),
    (['--ratios=4,many'], ['--ratios=many']),
    (['--ratios=0.5'], ['--ratios=0.5', '1 or more']),
    (['--ratios='], ['--ratios']),
    (['--encodings=plain'], ['--encodings=hashed']),
    (['--seeds=0'], ['--seeds=0']),
    (
      ['--encodings=quotient_remainder', '--config.tables.rows=3'],
      ['--encodings=quotient_remainder', 'budget'],
    ),
    (
      ['--config.model.name=shared_bottom', '--config.data.synthetic.tasks=2'],
      ['several labels (click, conversion)'],
    ),
    (['--config.tables.threshold=200'], ['config.tables.threshold=200']),
    (['--config.model.dlrm.interaction=x'], ['config.model.dlrm.interaction']),
  ],
)
def test_what_is_impossible_is_said_before_the_first_run(
  flags, words, tmp_path
):
  done = run(
    command(tmp_path / 'none', '--encodings=hashed', '--ratios=2', *flags),
    status=1,
  )
  assert all(word in done.stderr for word in words), done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert not done.stdout
  assert not (tmp_path / 'none').exists()


def test_files_that_cannot_be_written_are_told_before_the_first_run(tmp_path):
  (tmp_path / 'tradeoff.md').mkdir()
  with pytest.raises(InputError, match=r'tradeoff\.md is a folder') as error:
    make_folder(tmp_path, ['tradeoff.md'])
  assert '--workdir' in str(error.value)
  make_folder(tmp_path / 'new' / 'folder', ['tradeoff.md'])
  assert list((tmp_path / 'new' / 'folder').iterdir()) == []


DAMAGED = {
  'cut': '{"step": 12, "spl',
  'a list': '[]',
  'no such split': '{"splits": {}}',
  'a text for a metric': '{"splits": {"test": {"auc": "high"}}}',
  'no metrics': '{"splits": {"test": 3}}',
}


@pytest.mark.parametrize('text', DAMAGED.values(), ids=DAMAGED)
def test_results_that_are_damaged_are_none(tmp_path, text):
  config = small.get_config()
  run = build_run(config, open_data(config), tmp_path)
  study_run = Trial('plain', 0, run)
  known = config.to_dict()
  claim = workdir.Claim(run.config, identity(run.data), run.steps, known)
  with workdir.claimed(tmp_path, claim):
    path = tmp_path / 'results.json'
  path.write_text('{"splits": {"test": {"auc": 0.75, "log_loss": null}}}')
  scores = study_run.scores('test')
  assert scores['auc'] == 0.75
  assert math.isnan(scores['log_loss'])
  path.write_text(text)
  assert study_run.scores('test') is None


def test_ratios_with_the_same_tables_are_trained_once(tmp_path):
  flags = '--encodings=hashed', '--ratios=1,2', '--seeds=1'
  out = run(command(tmp_path / 'w', *flags)).stdout
  assert 'hashed at 1: left out, same tables as plain' in out
  assert sorted(os.listdir(tmp_path / 'w' / 'runs')) == [
    'hashed-2-0',
    'plain-1-0',
  ]
