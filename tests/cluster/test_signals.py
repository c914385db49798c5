"""What a signal does outside of the steps of a run, in processes of its own."""

import concurrent.futures
import os
import signal

import pytest

from dlrm_jax.cluster.signals import Signals
from dlrm_jax.errors import Ended
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


NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


def send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize('number', NUMBERS)
def test_in_a_function_signals_are_raised_unless_there_is_state_to_save(number):
  before = signal.getsignal(number), signal.set_wakeup_fd(-1)
  signal.set_wakeup_fd(before[1])
  with Signals(raises=True) as signals:
    signals.hold()
    send(number)
    assert signals.poll() == signals.wait() == number
    with pytest.raises(Ended) as caught:  # a second one
      send(signal.SIGINT)
    assert caught.value.number == signal.SIGINT
    with pytest.raises(Ended):
      signals.release()
  with Signals(raises=True), pytest.raises(KeyboardInterrupt) as caught:
    send(number)
  assert caught.value.number == number
  assert signal.getsignal(number) == before[0]
  assert signal.set_wakeup_fd(before[1]) == before[1]


def test_a_signal_whose_error_was_lost_stops_the_run_after_a_step():
  with Signals(raises=True) as signals:
    with pytest.raises(Ended):
      send(signal.SIGTERM)
    signals.hold()
    assert signals.poll() == signal.SIGTERM


@pytest.mark.parametrize('raises', [False, True])
def test_in_another_thread_signals_do_what_they_did(raises):
  def entered():
    with Signals(raises) as signals:
      signals.hold()
      assert [signal.getsignal(number) for number in NUMBERS] == before
      assert signals.poll() == 0
      signals.release()

  before = [signal.getsignal(number) for number in NUMBERS]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    pool.submit(entered).result()
  assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_handler_that_python_cannot_put_back_stays(monkeypatch):
  monkeypatch.setattr(signal, 'getsignal', lambda number: None)
  set_by_us = []
  monkeypatch.setattr(signal, 'signal', lambda *args: set_by_us.append(args))
  with Signals():
    pass
  assert not set_by_us
