"""Whole runs through the command line: train, be killed, resume, evaluate."""

import functools
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dlrm_jax.optim.plateau import Plateau
from dlrm_jax.run.history import read_history
from tests.commands import (
  ROOT,
  Command,
  checkpoints,
  run,
  signal_itself,
  wait_for_checkpoint,
  wait_until,
)

LAST = 55  # step of the last checkpoint before the end


def command(workdir, *flags):
  return [
    'train.py', '--config=tests/small.py', f'--workdir={workdir}', *flags
  ]  # fmt: skip


def final_state(workdir, step=60):
  with ocp.StandardCheckpointer() as checkpointer:
    folder = pathlib.Path(workdir).absolute() / 'checkpoints' / str(step)
    return checkpointer.restore(folder / 'state')


def assert_bit_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """An uninterrupted run, and what it printed."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return workdir, run(command(workdir))


def test_the_plan_is_printed_before_the_first_step(finished):
  out = finished[1].stdout
  for line in (
    'data      synthetic',
    'examples  train 10,000, validation 3,000, test 5,000',
    'batch     256',
    'steps     60 (1.54 epochs)',
  ):
    assert line in out
  assert re.search(r'C1 +50 x 4', out)
  assert out.index('workdir   ') < out.lower().index('auc')


def test_progress_shows_step_loss_rate_and_validation(finished):
  err = finished[1].stderr
  assert re.search(r'step 60, loss 0\.\d+', err)
  assert 'examples/s' in err
  assert 'validation AUC' in err + finished[1].stdout


def test_results_stand_beside_the_known_optimum(finished):
  results = json.loads((finished[0] / 'results.json').read_text())
  assert set(results['splits']) == {'validation', 'test'}
  test = results['splits']['test']
  best = results['references']['test']['Bayes']
  assert test['examples'] == 5000
  assert 0.55 < test['auc'] < best['auc']
  assert best['log_loss'] < test['log_loss']


def test_report_and_event_files_are_there(finished):
  page = (finished[0] / 'report.html').read_text()
  assert '<svg' in page
  assert not re.search(r'(src|href)="?https?:', page)
  assert list((finished[0] / 'tensorboard').glob('events*'))


@pytest.mark.slow
@pytest.mark.parametrize('kills', [2, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_resumes_bit_equal(finished, tmp_path, kills):
  draw = random.Random(kills)
  workdir = tmp_path / 'killed'
  # On a machine however fast it is still there to be killed.
  waits = functools.partial(signal_itself, signal.SIGSTOP, LAST)
  for _ in range(kills):
    with Command(command(workdir), before=waits) as process:
      if LAST - 5 not in checkpoints(workdir):
        wait_for_checkpoint(workdir, process)
      time.sleep(draw.random() * 0.3)
      process.kill()
  run(command(workdir))
  assert_bit_equal(final_state(workdir), final_state(finished[0]))
  assert evaluations(workdir) == evaluations(finished[0])


def evaluations(workdir):
  return [row for row in read_history(workdir) if 'validation/auc' in row]


@pytest.mark.slow
def test_killed_before_a_checkpoint_and_after_it_it_resumes_bit_equal(
  finished, tmp_path
):
  workdir = tmp_path / 'killed'
  for step in (5, 20, 40):
    dies = functools.partial(signal_itself, signal.SIGKILL, step)
    with Command(command(workdir), before=dies) as process:
      assert process.end().status == -signal.SIGKILL
    assert max(checkpoints(workdir), default=0) < step
  run(command(workdir))
  assert_bit_equal(final_state(workdir), final_state(finished[0]))


REGULARISED = (
  '--config.model.norm=batch',
  '--config.model.dropout=0.2',
  '--config.model.l2=0.001',
  '--config.tables.update=dense',
  '--config.tables.l2=0.001',
  '--config.train.clip=0.05',
  '--config.train.plateau.patience=1',
  '--config.train.plateau.factor=0.5',
  '--config.train.eval_every=6',
)


@pytest.mark.slow
def test_rates_fall_as_evaluations_say_also_in_a_run_that_was_killed(tmp_path):
  """With all that depends on chance, on other examples, or on what was."""
  said = run(command(tmp_path / 'whole', *REGULARISED)).stdout
  for step in (15, 40):
    dies = functools.partial(signal_itself, signal.SIGKILL, step)
    flags = command(tmp_path / 'killed', *REGULARISED)
    with Command(flags, before=dies) as process:
      assert process.end().status == -signal.SIGKILL
  run(flags)
  whole = final_state(tmp_path / 'whole')
  assert_bit_equal(final_state(tmp_path / 'killed'), whole)
  rows = evaluations(tmp_path / 'whole')
  assert evaluations(tmp_path / 'killed') == rows
  gains = [row['validation/auc'] for row in rows if row['step'] < 60]
  falls = Plateau(0.5, patience=1, least=0.001).falls(gains)
  assert falls > 0
  assert whole['factor'] == max(0.5**falls, 0.001)
  assert f'learning rates x {whole["factor"]:g}: no better AUC in 1' in said
  assert 'norm_0' in whole['statistics']['model']['top']


@pytest.mark.parametrize(
  ('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_ends_with_its_status(tmp_path, number, status):
  workdir = tmp_path / 'run'
  with Command(command(workdir, '--config.train.steps=10000000')) as process:
    wait_until(lambda: checkpoints(workdir), process)
    process.send(number)
    done = process.end()
  assert done.status == status
  last = re.fullmatch(
    rf'{number.name}: saved step ([\d,]+) of 10,000,000; the same command goes '
    r'on from there',
    done.stdout.splitlines()[-1],
  )
  assert last
  assert int(last[1].replace(',', '')) in checkpoints(workdir)
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_before_the_first_step_a_signal_ends_it_at_once(
  tmp_path, number, status
):
  """From the plan until the first step is compiled there is nothing to save.

  Many layers take long to compile, so the signal comes before the first step.
  """
  many = f'--config.model.top={(8,) * 100}'
  with Command(command(tmp_path / 'run', many)) as process:
    wait_until(lambda: 'workdir   ' in process.stdout.read_text(), process)
    process.send(number)
    done = process.end()
  assert done.status == status
  assert f'{number.name}: nothing that was trained is lost' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_bit_equal(
  finished, tmp_path
):
  workdir = tmp_path / 'full'
  small = ['bash', '-c', 'ulimit -f 10; exec "$@"', 'bash']  # files of 10 kB
  done = subprocess.run(
    [*small, sys.executable, *command(workdir)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert last.startswith(f'error: {workdir}/checkpoints/5: cannot be written')
  assert 'Traceback' not in done.stderr
  run(command(workdir))
  assert_bit_equal(final_state(workdir), final_state(finished[0]))


def test_a_device_without_room_is_one_line(tmp_path):
  mount = 'mount -t tmpfs -o size=100k none "$0" && exec "$@"'
  own = ['unshare', '--mount', '--map-root-user', 'bash', '-c', mount]
  if subprocess.run([*own, tmp_path, 'true'], capture_output=True).returncode:
    pytest.skip('no file system of its own can be mounted here')
  done = subprocess.run(
    [*own, tmp_path, sys.executable, *command(tmp_path / 'run')],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  assert re.match(
    f'error: {tmp_path}.*No space left on device', done.stderr.splitlines()[-1]
  )


def test_a_finished_run_started_again_only_reports(finished):
  again = run(command(finished[0]))
  assert 'resuming from the checkpoint of step 60' in again.stdout
  assert 'auc' in again.stdout


def test_another_config_in_the_workdir_is_refused_by_field(finished):
  done = run(
    command(finished[0], '--config.train.batch_size=512', '--config.seed=3'),
    status=1,
  )
  assert 'seed was 0, is 3' in done.stderr
  assert 'train.batch_size was 256, is 512' in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_early_stopping_stops_and_stays_stopped(tmp_path):
  flags = (
    '--config.train.patience=1',
    '--config.train.eval_every=2',
    '--config.train.steps=1000',
    '--config.optimizer.learning_rate=0.0',
    '--config.table_optimizer.learning_rate=0.0',
  )
  first = run(command(tmp_path / 'w', *flags))
  assert 'stopped early' in first.stdout
  rows = (tmp_path / 'w' / 'metrics.jsonl').read_text()
  run(command(tmp_path / 'w', *flags))
  assert (tmp_path / 'w' / 'metrics.jsonl').read_text() == rows


def test_a_loss_that_is_not_finite_stops_with_its_step(tmp_path):
  done = run(
    command(
      tmp_path / 'w',
      '--config.optimizer.name=sgd',
      '--config.optimizer.learning_rate=1e30',
    ),
    status=1,
  )
  assert re.search(r'step \d+: the loss is (nan|inf)', done.stderr)
  assert 'logits' in done.stderr


def evaluate(*flags, status=0):
  return run(['-m', 'dlrm_jax.evaluate', *flags], status)


def test_evaluate_gives_the_numbers_of_the_run(finished, tmp_path):
  done = evaluate('--workdir', finished[0], '--json', tmp_path / 'r.json')
  printed = json.loads(done.stdout.splitlines()[-1])
  want = json.loads((finished[0] / 'results.json').read_text())
  assert printed['step'] == want['step']
  assert printed['metrics'] == want['splits']['test']
  assert json.loads((tmp_path / 'r.json').read_text()) == printed


def test_evaluate_takes_split_and_checkpoint(finished):
  done = evaluate(
    f'--workdir={finished[0]}', '--split=validation', '--checkpoint=latest'
  )
  printed = json.loads(done.stdout.splitlines()[-1])
  assert printed['step'] == 60
  assert printed['metrics']['examples'] == 3000
