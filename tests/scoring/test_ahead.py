"""Items that a thread makes ahead."""

import itertools
import threading
import time

import pytest

from dlrm_jax.scoring.ahead import ahead


def threads():
  return [t for t in threading.enumerate() if t is not threading.main_thread()]


@pytest.fixture(autouse=True)
def no_thread_stays():
  before = len(threads())
  yield
  assert len(threads()) == before


def test_all_items_in_order():
  assert list(ahead(range(100))) == list(range(100))
  assert list(ahead([])) == []


@pytest.mark.parametrize('most', [1, 2, 5])
def test_no_more_items_wait_than_asked_for(most):
  """One more is in the hands of the thread."""
  made = []
  waiting = threading.Event()

  def items():
    for number in itertools.count():
      made.append(number)
      if number > most + 3:
        waiting.set()
      yield number

  some = ahead(items(), most)
  assert next(some) == 0
  assert not waiting.wait(0.3)
  assert len(made) <= most + 2
  assert next(some) == 1
  some.close()


def test_the_thread_ends_when_the_consumer_stops():
  some = ahead(itertools.count())
  assert next(some) == 0
  some.close()


def test_the_thread_ends_when_the_consumer_fails():
  def consume():
    for item in ahead(itertools.count()):
      if item == 3:
        raise ArithmeticError('of the consumer')

  with pytest.raises(ArithmeticError):
    consume()


def test_a_consumer_does_not_wait_for_an_item_that_never_comes(monkeypatch):
  """As of standard input, when Ctrl-C ends the command."""
  monkeypatch.setattr('dlrm_jax.scoring.ahead._PATIENCE', 0.05)
  ended, before = threading.Event(), threads()

  def items():
    yield 1
    ended.wait()

  some = ahead(items())
  assert next(some) == 1
  some.close()
  assert not ended.is_set()
  ended.set()
  for thread in set(threads()) - set(before):
    thread.join(5)


@pytest.mark.parametrize('error', [ValueError('x'), KeyboardInterrupt()])
def test_an_error_comes_in_its_place(error):
  def items():
    yield 1
    yield 2
    raise error

  some = ahead(items())
  assert [next(some), next(some)] == [1, 2]
  with pytest.raises(type(error)):
    next(some)


def test_an_iterator_that_is_closed_closes_its_own(tmp_path):
  """A generator has files open, which are closed with it."""
  closed = threading.Event()

  def items():
    try:
      yield from itertools.count()
    finally:
      closed.set()

  some = ahead(items())
  next(some)
  some.close()
  assert closed.wait(5)


def test_items_are_made_while_others_are_used():
  made = threading.Event()

  def items():
    yield 1
    made.set()
    yield 2

  some = ahead(items())
  next(some)
  deadline = time.monotonic() + 30
  assert made.wait(deadline - time.monotonic())
  assert list(some) == [2]
