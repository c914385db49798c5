"""What a signal does outside of the steps of a run, in processes of its own."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from dlrm_jax.cluster.signals import Signals

ROOT = pathlib.Path(__file__).resolve().parents[2]
START = """
import os, signal, time
from dlrm_jax.cluster.signals import Signals
with Signals() as signals:
  {}
  print('ready', flush=True)
  time.sleep(60)
"""
NOTED = """signals.hold()
  os.kill(os.getpid(), signal.SIGHUP)
  while not signals._noted:
    time.sleep(0.001)
  signals.release()
"""


def test_under_nohup_sighup_is_ignored_as_before():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with Signals():
      os.kill(os.getpid(), signal.SIGHUP)
      assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
  ('state', 'numbers', 'status', 'message'),
  [
    ('pass', ['SIGUSR1'], 138, 'SIGUSR1: nothing that was trained is lost'),
    (
      'signals.hold(); signals.release()',
      ['SIGTERM'],
      143,
      'SIGTERM: nothing that was trained is lost',
    ),
    (NOTED, [], 129, 'SIGHUP: nothing that was trained is lost'),
    (
      'signals.hold()',
      ['SIGTERM', 'SIGINT'],
      130,
      'SIGINT: ended at once, without saving',
    ),
  ],
)
def test_where_nothing_is_noted_a_signal_ends_the_process(
  state, numbers, status, message
):
  process = subprocess.Popen(
    [sys.executable, '-c', START.format(state)],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  process.stdout.readline()
  for name in numbers:
    process.send_signal(getattr(signal, name))
  _, err = process.communicate(timeout=30)
  assert process.returncode == status
  assert message in err
  assert len(err.splitlines()) == 1
