"""What a signal does outside of the steps of a run, in processes of its own."""

import os
import signal

import pytest

from dlrm_jax.cluster.signals import Signals
from tests.commands import Command, wait_until

START = """
import os, signal, time
from dlrm_jax.cluster.signals import Signals
with Signals() as signals:
  {}
  print('ready', flush=True)
  while True:
    time.sleep(1)
"""
HELD = """signals.hold()
  os.kill(os.getpid(), signal.SIGTERM)
  while not signals._noted:
    time.sleep(0.001)
"""
RELEASED = HELD.replace('SIGTERM', 'SIGHUP') + '  signals.release()\n'


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
    (RELEASED, [], 129, 'SIGHUP: nothing that was trained is lost'),
    (HELD, ['SIGINT'], 130, 'SIGINT: ended at once, without saving'),
  ],
)
def test_a_signal_with_nothing_to_save_or_a_second_one_ends_the_process(
  state, numbers, status, message
):
  with Command(['-c', START.format(state)]) as process:
    if numbers:
      wait_until(process.stdout.read_text, process)
    for name in numbers:
      process.send(getattr(signal, name))
    done = process.end()
  assert done.status == status
  assert message in done.stderr
  assert len(done.stderr.splitlines()) == 1
