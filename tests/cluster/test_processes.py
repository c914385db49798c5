"""Jobs of several real processes: equal to one, stopped, killed, resumed."""

import argparse
import functools
import json
import re
import signal

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.build import trained
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.cluster import job as cluster
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.run import workdir as folders
from dlrm_jax.run.history import read_history
from dlrm_jax.training.state import abstract_state
from tests import commands
from tests.commands import signal_itself
from tests.job import Job, run

STEPS = 50


def train(workdir, *flags):
  return [
    'train.py', '--config=tests/small.py', f'--workdir={workdir}',
    f'--config.train.steps={STEPS}', '--config.train.log_every=1',
    '--config.train.eval_every=25', '--config.train.checkpoint_every=10',
    '--config.data.synthetic.tables=(50, 30)',
    '--config.data.synthetic.hotness=(1, 3)', *flags,
  ]  # fmt: skip


def losses(workdir):
  rows = [row for row in read_history(workdir) if 'loss' in row]
  assert [row['step'] for row in rows] == list(range(1, STEPS + 1))
  return [row['loss'] for row in rows]


def results(workdir):
  return json.loads((workdir / 'results.json').read_text())['splits']


def final_state(workdir):
  task = trained.trained(
    *folders.read_settings(workdir, default.get_config().to_dict())
  ).task
  checkpoints = Saved(workdir / 'checkpoints', task.collection.layout)
  return checkpoints.restore(STEPS, abstract_state(task))


# Of a table each node has a copy of its own, and in the midst of the run all
# tables are made anew.
INDEPENDENT = "--config.tables.features={'C2':{'placement':'independent'}}"
# Processes, devices of each, and flags.
JOBS = {
  'two processes of two devices': (2, 2, INDEPENDENT),
  'four processes': (4, 1),
}
SLOW_JOBS = [
  'two processes of two devices',
  pytest.param('four processes', marks=pytest.mark.slow),
]


@pytest.fixture(scope='module')
def jobs(tmp_path_factory):
  """(processes, devices of each, flags) -> workdir, and how they ended."""

  @functools.cache
  def job(processes, devices, *flags):
    workdir = tmp_path_factory.mktemp('processes') / 'run'
    variables = commands.devices(devices)
    command = train(workdir, *flags)
    return workdir, run(command, processes, environment=variables)

  return job


def assert_same_run(one, many):
  np.testing.assert_allclose(losses(many), losses(one), rtol=1e-5)
  for split, scores in results(one).items():
    found = results(many)[split]
    assert found['examples'] == scores['examples']
    for metric in ('auc', 'log_loss', 'calibration'):
      np.testing.assert_allclose(found[metric], scores[metric], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', SLOW_JOBS)
def test_losses_and_scores_are_those_of_one_process(jobs, name):
  _, _, *flags = JOBS[name]
  assert_same_run(jobs(1, 1, *flags)[0], jobs(*JOBS[name])[0])


@pytest.mark.parametrize('name', SLOW_JOBS)
def test_only_the_first_process_prints_and_logs(jobs, name):
  workdir, printed = jobs(*JOBS[name])
  assert 'devices   4' in printed[0].stdout
  for process in range(1, len(printed)):
    _, out, err = printed[process]
    # Gloo's threads write lines of their own, some into those of others.
    assert not re.search('[A-Za-z]', re.sub(r'\[Gloo\].*', '', out))
    assert err == ''
  assert len(list((workdir / 'tensorboard').iterdir())) == 1


@pytest.mark.slow
def test_evaluate_over_processes_gives_the_numbers_of_the_run(jobs):
  workdir, _ = jobs(2, 2, INDEPENDENT)
  evaluate = ['-m', 'dlrm_jax.evaluate', f'--workdir={workdir}']
  done = run(evaluate, 2, environment=commands.devices(2))
  found = json.loads(done[0].stdout.splitlines()[-1])['nodes']
  scores = json.loads((workdir / 'results.json').read_text())['nodes']['scores']
  assert found.keys() == scores.keys()
  for node in found:
    assert found[node] == pytest.approx(scores[node], rel=1e-6)


STOPS = [
  (signal.SIGKILL, 1, 20),
  (signal.SIGTERM, 1, 30),
  (signal.SIGKILL, 0, 40),
]


@pytest.mark.slow
@pytest.mark.parametrize('stops', [STOPS[:2], STOPS])
def test_killed_and_signalled_it_resumes_bit_equal(jobs, tmp_path, stops):
  workdir, variables = tmp_path / 'run', commands.devices(2)
  command = train(workdir, INDEPENDENT)
  for number, process, step in stops:
    before = {process: functools.partial(signal_itself, number, step)}
    with Job(command, 2, before=before, environment=variables) as job:
      done = job.end()
    first, other = done[0], done[1 - process]
    if number == signal.SIGTERM:
      assert {x.status for x in done.values()} == {143}, done
      assert 'SIGTERM: saved step 3' in first.stdout
    else:
      assert done[process].status == -signal.SIGKILL
      assert other.status != 0
      assert re.search(ENDED, other.stderr)
    if number == signal.SIGKILL and process == 1:
      message = 'error: process 0: another process of this job has ended'
      assert other.status == 1
      assert message in other.stderr
      assert 'Start the job again' in other.stderr
    if step > 20:
      assert 'resuming from the checkpoint of step' in first.stdout
  run(command, 2, environment=variables)
  jax.tree.map(
    np.testing.assert_array_equal,
    final_state(workdir),
    final_state(jobs(2, 2, INDEPENDENT)[0]),
  )


# With process 0 the service of JAX ends: JAX aborts the others, before our
# watch has noticed anything or while it says so.
ENDED = 'another (process of this job has ended|task died)'


@pytest.mark.slow
@pytest.mark.parametrize('killed', [0, 1])
def test_killed_while_saving_it_takes_the_others_along(tmp_path, killed):
  workdir = tmp_path / 'run'
  endless = ('--config.train.steps=100000', '--config.train.checkpoint_every=1')
  with Job(train(workdir, *endless), 2) as job:
    job.wait_for_checkpoint(workdir)
    job.processes[killed].kill()
    status, _, err = job.end()[1 - killed]
  assert status != 0
  assert re.search(ENDED, err), err
  if killed == 1:
    assert status == 1, err
    assert err.count('error:') == 1, err
    assert f'error: process 0: {ENDED[:8]}' in err


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (('localhost:70000', 2, 0), 'port 70000; expected 1 to 65535'),
    (('localhost', 2, 0), '--coordinator=localhost: expected HOST:PORT'),
    (('localhost:80', 0, 0), '--processes=0: expected 1 or more'),
    (('localhost:80', 2, 2), '--process=2: expected 0 to 1'),
    (('localhost:80', 2, None), 'go together'),
  ],
)
def test_flags_of_a_job_that_cannot_be_are_refused(flags, message):
  given = cluster.JobFlags(False, *flags)
  with pytest.raises(InputError, match=message):
    cluster.joined(argparse.Namespace(**given._asdict())).__enter__()


def test_a_cluster_is_known_or_named_not_both():
  given = cluster.JobFlags(True, 'localhost:80', 2, 0)
  with pytest.raises(InputError, match='expected one of them'):
    cluster.joined(argparse.Namespace(**given._asdict())).__enter__()


def test_a_process_that_does_not_come_is_missed_after_a_while(tmp_path):
  command = [*train(tmp_path / 'run'), '--wait=3']
  with (
    Job(command, 3, absent=[2]) as first,
    Job(command, 2, absent=[0]) as last,
  ):
    alone, came = last.end()[1], first.end()
  assert alone.status == 1
  assert 'error: no process 0 at --coordinator=127.0.0.1:' in alone.stderr
  # The two may start seconds apart: the first to give up ends both.
  assert all(done.status != 0 for done in came.values())
  said = came[0].stderr + came[1].stderr
  assert 'error: not all 3 processes of this job came in 3 seconds' in said


def test_processes_must_have_one_config(tmp_path):
  own = {1: ['--config.seed=3']}
  done = run(train(tmp_path / 'run'), 2, status=1, own=own)
  for _, _, err in done.values():
    assert 'process 1 of this job has another config' in err
  assert 'config.seed is 3 here, 0 on process 0' in done[1][2]
  assert not (tmp_path / 'run').exists()


def test_lanes_must_be_shared_by_the_processes(tmp_path):
  done = run(train(tmp_path / 'run', '--config.data.lanes=1'), 2, status=1)
  for _, _, err in done.values():
    assert 'error: config.data.lanes is 1; expected a multiple of the 2' in err
  assert not (tmp_path / 'run').exists()


def test_batches_must_be_shared_by_the_devices():
  assert sharding.choose_mesh(8, {'--batch_size': 64}).size == 8
  with pytest.raises(InputError, match='--batch_size is 63; expected a mult'):
    sharding.choose_mesh(8, {'--batch_size': 63})
