"""The command that sweeps: whole sweeps, as they are typed."""

import functools
import json
import os
import signal

import numpy as np
import pytest

from dlrm_jax.data.schema import Block, Column, Schema
from tests.commands import Command, checkpoints, run, signal_itself
from tests.sets import write_set

GRID = '--grid=optimizer.learning_rate=[0.1,1e30] train.batch_size=[256]'
RUNS = [
  f'learning_rate={rate},batch_size=256,seed={seed}'
  for rate in ('0.1', '1e+30')
  for seed in (0, 1)
]


def command(workdir, *arguments):
  return [
    *('-m', 'dlrm_jax.sweep', '--config=tests/small.py'),
    *(f'--workdir={workdir}', '--config.train.steps=12'),
    *('--config.train.eval_every=4', *arguments),
  ]


def numbers(workdir):
  return json.loads((workdir / 'sweep.json').read_text())


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A sweep of four runs, two of which fail, and what it printed."""
  workdir = tmp_path_factory.mktemp('sweeps') / 'whole'
  return workdir, run(command(workdir, GRID, '--seeds=2')).stdout


@pytest.mark.slow
def test_the_plan_comes_first_then_the_runs_then_the_table(finished):
  text = ' '.join(finished[1].split())
  plan, _, rest = text.partition('1/4 ')
  assert 'runs 4: 2 settings, seeds 0, 1; 0 done' in plan
  assert 'optimizer.learning_rate: 0.1, 1e30' in plan
  assert 'ranked by validation AUC' in plan
  assert rest.startswith('learning_rate=0.1,batch_size=256, seed 0')
  assert rest.count('failed: step') == 2
  assert '2 of 4 runs failed' in rest
  assert '| `1e+30` | `256` | 2 | 0 of 2, 2 failed |' in rest


@pytest.mark.slow
def test_each_run_has_a_folder_as_train_makes_it(finished):
  folder = finished[0] / 'runs'
  assert sorted(os.listdir(folder)) == RUNS
  for name in RUNS:
    config = json.loads((folder / name / 'config.json').read_text())
    assert name.endswith(f'seed={config["seed"]}')
    assert (folder / name / 'report.html').exists() == ('=0.1' in name)


@pytest.mark.slow
def test_train_goes_on_with_a_run(finished):
  workdir = finished[0] / 'runs' / RUNS[0]
  flags = '--config.train.steps=12', '--config.train.eval_every=4'
  rate = '--config.optimizer.learning_rate=0.1'
  train = 'train.py', '--config=tests/small.py', f'--workdir={workdir}'
  assert 'nothing left to train' in run([*train, *flags, rate]).stdout


@pytest.mark.slow
def test_numbers_are_those_of_the_runs(finished):
  best, failed = numbers(finished[0])['points']
  assert (finished[0] / 'sweep.png').read_bytes().startswith(b'\x89PNG')
  for seed, one in enumerate(best['runs']):
    path = finished[0] / 'runs' / RUNS[seed] / 'results.json'
    scores = json.loads(path.read_text())['splits']['validation']
    assert one == {'seed': seed} | scores
  assert not failed['runs']
  assert [x['seed'] for x in failed['failures']] == [0, 1]


@pytest.mark.slow
def test_killed_it_goes_on_and_repeats_no_finished_run(finished, tmp_path):
  flags = '--grid=optimizer.learning_rate=[0.1,0.2]', '--seeds=1'
  dies = functools.partial(signal_itself, signal.SIGKILL, 8)
  with Command(command(tmp_path, *flags), before=dies) as process:
    assert process.end().status == -signal.SIGKILL
  first = tmp_path / 'runs' / 'learning_rate=0.1,seed=0'
  assert max(checkpoints(first)) < 8
  run(command(tmp_path, *flags))
  assert 'resuming from the checkpoint' in (first / 'log.txt').read_text()
  resumed = numbers(tmp_path)
  ours = {
    p['settings']['optimizer.learning_rate']: p for p in resumed['points']
  }
  assert ours[0.1]['runs'] == numbers(finished[0])['points'][0]['runs'][:1]
  (tmp_path / 'sweep.json').unlink()
  again = run(command(tmp_path, *flags)).stdout
  assert '; 2 done' in again
  assert 'took' not in again
  assert numbers(tmp_path) == resumed


@pytest.mark.slow
def test_a_signal_stops_it_like_a_run(tmp_path):
  stops = functools.partial(signal_itself, signal.SIGTERM, 5)
  with Command(command(tmp_path), before=stops) as process:
    done = process.end()
  assert done.status == 128 + signal.SIGTERM
  assert 'stopped; the same command' in done.stdout
  assert checkpoints(tmp_path / 'runs' / 'seed=0')


def test_data_without_a_split_to_rank_by_is_refused(tmp_path):
  ids = np.zeros((8, 1), np.int32)
  block = Block(np.zeros((8, 0), np.float32), ids, np.ones((8, 1), np.float32))
  write_set(tmp_path / 'data', Schema((), (Column('x', 4),)), {'train': block})
  flags = (
    '--config.data.kind=prepared',
    f'--config.data.dir={tmp_path / "data"}',
  )
  done = run(command(tmp_path / 'runs', *flags), status=1)
  assert 'no split validation to rank by; it has train' in done.stderr


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--grid=model.dims=[4]'], ['--grid', 'model.dims', 'dim?']),
    (
      ['--grid=model.dim=[4,8] train.batch_size=[256,3]'],
      ['--grid, dim=4,batch_size=3', 'a multiple of config.data.lanes=8'],
    ),
    (['--seeds=0'], ['--seeds=0', '1 or more']),
  ],
)
def test_what_is_impossible_is_said_before_the_first_run(
  flags, words, tmp_path
):
  done = run(command(tmp_path / 'none', *flags), status=1)
  assert all(word in done.stderr for word in words), done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert not done.stdout
  assert not (tmp_path / 'none').exists()
