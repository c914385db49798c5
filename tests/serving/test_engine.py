"""Requests that wait are joined, and each gets its own answer."""

import threading
import time

import numpy as np
import pytest

from dlrm_jax.scoring.load import load
from dlrm_jax.serving import engine
from dlrm_jax.serving.coding import Coding
from dlrm_jax.serving.engine import Engine
from dlrm_jax.serving.interface import Interface
from dlrm_jax.serving.program import Program
from dlrm_jax.serving.refusal import Why
from dlrm_jax.serving.tensors import DTYPES, Tensor
from dlrm_jax.serving.waiting import Answer, Limits, Waiting
from tests import scored
from tests.serving.calls import until
from tests.serving.gates import Gate, refusal

NOTHING = float('inf')
LIMITS = Limits(32, 0.0, 1000)


class Parts:
  """The parts of an engine, and rows with what the model says of them."""

  def __init__(self, run, export):
    model = load(export)
    intake = model.intake
    self.interface = Interface(model.card.schema, intake.schema, False)
    self.coding = Coding(intake, self.interface)
    self.program = Program(model.network, 32, weighted=False)
    for size in self.program.sizes:
      self.program.compile(size)
    self.inputs = scored.blocks_of(run.data, 'test')
    self.want = run.probabilities(self.inputs)

  def question(self, start, stop):
    tensors = {
      name: Tensor(kind, array.shape, array.astype(DTYPES[kind]))
      for name, kind, array in (
        ('dense', 'FP32', self.inputs.dense[start:stop]),
        ('ids', 'INT32', self.inputs.ids[start:stop]),
      )
    }
    return self.interface.question(tensors)


@pytest.fixture(scope='module')
def parts(plain, export):
  return Parts(plain, export)


class Running:
  """An engine behind a gate, and the batches that it delivered."""

  def __init__(self, parts, gate, limits):
    self.parts, self.gate, self.batches = parts, gate, []
    self.changed = threading.Condition()
    self.engine = Engine(gate, parts.coding, limits, self.deliver)
    self.asked = []

  def deliver(self, batch):
    with self.changed:
      self.batches.append(batch)
      self.changed.notify()

  def submit(self, start, stop, deadline=NOTHING, question=None):
    question = question or self.parts.question(start, stop)
    waiting = Waiting(question, deadline, None)
    self.engine.submit(waiting)
    self.asked.append((waiting, start, stop))
    if batch := self.engine.go_on():
      self.deliver(batch)
    return waiting

  def wait(self, count):
    """Waits until so many requests have their results."""
    with self.changed:
      assert self.changed.wait_for(
        lambda: sum(len(b.requests) for b in self.batches) >= count, 60
      )

  def check(self, waiting, start, stop):
    assert isinstance(waiting.result, Answer), waiting.result
    np.testing.assert_allclose(
      waiting.result.scores[..., 0],
      self.parts.want[start:stop],
      rtol=0,
      atol=1e-6,
    )


@pytest.fixture
def start(parts):
  """Starts engines behind gates, whose threads end with the test."""
  started = []

  def start(limits=LIMITS, **options):
    running = Running(parts, Gate(parts.program, **options), limits)
    started.append(running)
    return running

  yield start
  for running in started:
    running.gate.open.set()
    running.engine.close()
    running.engine.join()


def test_what_waits_is_joined_and_padded(start):
  running = start()
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  for first in range(1, 12):  # 11 requests of 1, 2, 3 rows
    running.submit(first, first + 1 + first % 3)
  running.gate.open.set()
  running.wait(12)
  assert [len(batch.requests) for batch in running.batches] == [1, 11]
  assert running.gate.sizes == [1, 32]
  for request in running.asked:
    running.check(*request)


def test_batches_are_at_most_so_large_and_keep_the_order(start):
  running = start()
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  for _ in range(7):
    running.submit(3, 15)
  running.gate.open.set()
  running.wait(8)
  assert [batch.rows for batch in running.batches] == [1, 24, 24, 24, 12]
  order = [r for batch in running.batches for r in batch.requests]
  assert order == [waiting for waiting, *_ in running.asked]
  for request in running.asked:
    running.check(*request)


def test_a_request_waits_for_others_for_a_while(start):
  running = start(Limits(32, 60.0, 1000))
  running.gate.open.set()
  for first in range(4):
    running.submit(first, first + 8)  # the last one makes the batch full
  running.wait(4)
  assert [len(batch.requests) for batch in running.batches] == [4]
  running = start(Limits(32, 0.05, 1000))
  running.gate.open.set()
  running.submit(0, 1)
  running.wait(1)


def test_a_full_queue_and_a_large_request_are_refused(start):
  running = start(Limits(32, 0.0, 40))
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  running.submit(0, 30)
  full = refusal(running.submit, 0, 11)
  assert full.why is Why.FULL
  assert '30 rows wait' in str(full)
  running.submit(0, 10)
  assert running.engine.queue_rows == 40
  large = refusal(running.submit, 0, 33)
  assert large.why is Why.INVALID
  assert '33 rows; expected at most 32' in str(large)
  running.gate.open.set()
  running.wait(3)
  assert running.engine.queue_rows == 0


def test_a_request_whose_time_is_over_is_not_computed(start):
  running = start()
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  late = running.submit(1, 5, deadline=time.perf_counter())
  gone = running.submit(1, 5)
  gone.gone = True
  running.gate.open.set()
  running.wait(3)
  assert late.result.why is gone.result.why is Why.LATE
  assert running.gate.sizes == [1]


def test_what_leaves_the_queue_makes_room(start):
  running = start(Limits(32, 0.0, 40))
  first = running.submit(0, 1)
  assert running.gate.called.wait(60)
  gone = running.submit(0, 30)
  running.submit(0, 10)
  running.engine.leave(gone)
  running.engine.leave(first)  # it is being scored
  assert running.engine.queue_rows == 10
  running.submit(2, 32)
  running.gate.open.set()
  running.wait(3)
  assert running.gate.sizes == [1, 16, 32]
  assert gone.result is None
  running.check(*running.asked[-1])


def raw(parts, rows, **changes):
  """A question of columns of the log."""
  columns = {
    'price': [b'3'], 'age': [b''], 'user': [b'5'], 'site': [b'ff'],
    'word': [b'x'], 'city': [b'city 1'], 'tags': [b'tag1|tag2'],
  }  # fmt: skip
  tensors = {
    name: Tensor('BYTES', (rows,), values * rows)
    for name, values in (columns | changes).items()
  }
  return parts.interface.question(tensors)


def test_a_bad_request_in_a_batch_fails_alone(start, parts):
  running = start()
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  good = running.submit(0, 2, question=raw(parts, 2))
  bad = running.submit(0, 3, question=raw(parts, 3, site=[b'no hex']))
  two = {'user': [b'1.5'], 'site': [b'zz']}
  both = running.submit(0, 1, question=raw(parts, 1, **two))
  running.submit(7, 9)
  running.gate.open.set()
  running.wait(5)
  assert [len(batch.requests) for batch in running.batches] == [1, 4]
  for found in (bad, both):
    assert found.result.why is Why.INVALID
  assert "row 0, column site: not hex: 'no hex'" in str(bad.result)
  assert 'column user: not an integer' in str(both.result)
  scores = good.result.scores
  np.testing.assert_array_equal(scores[0], scores[1])
  running.check(*running.asked[-1])
  alone = running.submit(0, 2, question=raw(parts, 2, site=[b'zz']))
  running.wait(6)
  assert alone.result.why is Why.INVALID
  assert len(running.gate.sizes) == 2  # there was nothing to score


def test_requests_of_a_failed_batch_are_scored_one_by_one(start, parts):
  marked = float(parts.inputs.dense[5, 0]) + 0.5
  running = start(fails=lambda inputs: (inputs.dense[:, 0] == marked).any())
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  running.submit(1, 4)
  question = parts.question(5, 6)
  dense = question.rows.dense.copy()
  dense[0, 0] = marked
  broken = question._replace(rows=question.rows._replace(dense=dense))
  failed = running.submit(5, 6, question=broken)
  running.submit(8, 9)
  running.gate.open.set()
  running.wait(4)
  assert failed.result.why is Why.FAILED
  assert str(failed.result).endswith('RuntimeError: the device is lost')
  assert str(running.batches[1].error).startswith('the device is lost')
  for request in (running.asked[1], running.asked[3]):
    running.check(*request)
  running.submit(2, 3)
  running.wait(5)
  running.check(*running.asked[-1])


def test_while_the_device_fails_requests_are_refused_at_once(
  start, monkeypatch
):
  monkeypatch.setattr(engine, '_AGAIN', 60.0)
  running = start(fails=lambda inputs: len(running.gate.sizes) > 1)
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  together = [running.submit(n, n + 12) for n in (1, 2)]
  behind = [running.submit(n, n + 12) for n in (3, 4)]
  running.gate.open.set()
  running.wait(5)
  running.check(*running.asked[0])
  assert [request.result.why for request in together] == [Why.FAILED] * 2
  assert [request.result.why for request in behind] == [Why.UNAVAILABLE] * 2
  assert running.gate.sizes == [1, 32, 1]  # the last one has no ids
  found = refusal(running.submit, 5, 6)
  assert found.why is Why.UNAVAILABLE
  assert str(found) == 'the device fails: RuntimeError: the device is lost'


def test_a_defect_of_encoding_is_none_of_the_device(start, parts):
  running = start()
  coding = running.engine._coding

  class Defective:
    def __call__(self, requests, counts):
      if any(x['user'].data == [b'7'] for x in requests):
        raise KeyError(b'7')
      return coding(requests, counts)

    def remembers(self, request):
      return False

  running.engine._coding = Defective()
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  good = running.submit(0, 2, question=raw(parts, 2))
  bad = running.submit(0, 1, question=raw(parts, 1, user=[b'7']))
  running.gate.open.set()
  running.wait(3)
  assert str(bad.result) == 'the server failed: KeyError'
  assert isinstance(good.result, Answer)
  assert running.batches[1].error is None
  assert isinstance(running.batches[1].defect, KeyError)
  assert not running.engine.failure


def test_raw_values_are_encoded_by_who_asks_if_that_is_short(start, parts):
  """Few, which were encoded before."""
  running = start()
  running.gate.open.set()
  running.gate.seconds = 9e-5
  engine, few = running.engine, raw(parts, 2, city=[b'not seen'])
  many = raw(parts, 1)
  bag = Tensor('BYTES', (1, 2000), [b''] * 2000)
  many.rows['tags'] = bag
  for question, at_once in (
    (few, False), (few, True), (many, False), (many, False), (few, True)
  ):  # fmt: skip
    waiting = Waiting(question, NOTHING, None)
    engine.submit(waiting)
    batch = engine.go_on()
    assert (batch is not None) == at_once
    if batch is None:
      until(lambda w=waiting: w.result is not None and not engine._busy)
    assert isinstance(waiting.result, Answer)


def test_a_closed_engine_answers_what_it_has(start):
  running = start()
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  running.submit(1, 2)
  running.engine.close()
  assert refusal(running.submit, 3, 4).why is Why.UNAVAILABLE
  running.gate.open.set()
  running.engine.join()
  assert len(running.batches) == 2
  for request in running.asked:
    running.check(*request)


def test_rows_are_cut_or_padded_as_is_fastest(start, parts):
  cpu = {1: 1.6, 8: 3.0, 16: 5.0, 32: 9.0}
  wanted = {1: (1,), 2: (8,), 8: (8,), 9: (1, 8), 16: (16,), 17: (1, 16),
            18: (8, 16), 24: (8, 16), 25: (32,), 32: (32,)}  # fmt: skip
  for seconds, want in ((cpu, wanted), (dict.fromkeys(cpu, 1.0), None)):
    program = Program(parts.program.loaded, 32, weighted=False)
    program.seconds = seconds
    for rows in range(1, 33):
      cuts = program.cuts(rows)
      assert sum(cuts[:-1]) < rows <= sum(cuts)
      if want is None:  # a device that takes as long for any
        assert len(cuts) == 1
      elif rows in want:
        assert cuts == want[rows], rows
  running = start()
  running.engine._program = Cutting(parts.program)
  running.submit(0, 21)
  running.submit(5, 8)
  running.wait(2)
  for request in running.asked:
    running.check(*request)


class Cutting:
  """A program that scores eight rows at a time."""

  def __init__(self, program):
    self._program = program

  def seconds_for(self, rows):
    return 1.0

  def cuts(self, rows):
    return (8,) * -(-rows // 8)

  def __call__(self, inputs):
    assert len(inputs.ids) == 8
    return self._program(inputs)


def test_what_is_short_is_scored_by_who_asks(start):
  running = start()
  running.gate.open.set()
  engine, question = running.engine, running.parts.question(0, 3)

  def submitted():
    waiting = Waiting(question, NOTHING, None)
    return waiting, engine.submit(waiting)

  (first, is_first), (second, is_second) = submitted(), submitted()
  assert (is_first, is_second) == (True, False)
  assert engine.go_on() is None  # it takes too long: the thread scores both
  running.wait(2)
  running.gate.seconds = 9e-4
  (first, is_first), (second, _) = submitted(), submitted()
  assert is_first
  batch = engine.go_on()
  assert batch.requests == [first, second]
  for request in batch.requests:
    running.check(request, 0, 3)
  assert engine.go_on() is None  # nothing waits
  running.gate.open.clear()
  running.gate.called.clear()
  running.gate.seconds = 1.0
  running.submit(0, 1)
  assert running.gate.called.wait(60)
  running.gate.seconds = 9e-4
  submitted()
  assert engine.go_on() is None  # the thread is at work
  running.gate.open.set()
  running.wait(4)


def test_the_first_request_may_have_thousands_of_rows(parts):
  program = Program(parts.program.loaded, 4096, weighted=False)
  program.seconds = {size: size + 1.0 for size in program.sizes}
  assert sorted(program.cuts(3000)) == [8, 16, 32, 128, 256, 512, 2048]
  assert program.cuts(4095) == (4096,)


def test_a_request_after_the_thread_was_woken_is_the_first_again(start):
  running = start()
  running.gate.open.set()
  question = running.parts.question(0, 3)
  for count in (1, 2):
    assert running.engine.submit(Waiting(question, NOTHING, None))
    running.engine.wake()
    running.wait(count)
