"""How threads take pieces of queries."""

import math
import threading
import time

import numpy as np

from dlrm_jax.colocate.line import Line, Load


def line_of(count, sizes, most, **options):
  load = Load(time.monotonic(), math.inf, 0, count)
  return Line(load, np.array(sizes), most, (0,), **options)


def test_queries_are_cut_and_taken_in_order():
  line, taken = line_of(3, [70, 5], 32), []
  line.work(taken.append)
  assert [(p.query, p.items) for p in taken] == [
    *((0, 32), (0, 32), (0, 6)),
    (1, 5),
    *((2, 32), (2, 32), (2, 6)),
  ]
  assert [p.first for p in taken] == [0, 32, 64, 70, 75, 107, 139]
  assert line.served().queries == 3


def test_threads_compute_the_pieces_of_a_query_at_the_same_time():
  line = line_of(5, [64], 32)
  both = threading.Barrier(2, timeout=60)  # breaks if one thread is alone
  threads = [
    threading.Thread(target=line.work, args=(lambda piece: both.wait(),))
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not both.broken
  assert line.served().queries == 5
  assert len(line.served().latencies) == 5


def test_a_query_is_answered_when_its_last_piece_is():
  now = [0.0]
  load = Load(0.0, math.inf, 0, 1)
  line = Line(load, np.array([96]), 32, (0,), now=lambda: now[0])

  def compute(piece):
    now[0] += 1

  line.work(compute)
  assert line.served().latencies.tolist() == [3]
  assert line.served().ended == 3


def test_a_load_without_end_is_served_until_it_is_told_to_stop():
  asked = []

  def stopped():
    asked.append(None)
    return len(asked) > 2

  line = line_of(None, [1], 32, stopped=stopped)
  line.work(lambda piece: time.sleep(0.001))
  found = line.served()
  assert len(asked) == 3
  assert found.queries > 10
  assert not len(found.latencies)


def test_a_load_without_end_stops_while_nothing_comes():
  load = Load(time.monotonic(), 1e-9)
  line = Line(load, np.array([1]), 32, (0,), stopped=lambda: True)
  line.work(lambda piece: None)
  assert line.served().queries == 0


def test_where_one_thread_fails_the_others_end():
  line = line_of(None, [1], 32)

  def fail(piece):
    raise RuntimeError

  other = threading.Thread(target=line.work, args=(lambda p: time.sleep(0.01),))
  other.start()
  try:
    line.work(fail)
  except RuntimeError:
    other.join(60)
  assert not other.is_alive()
