"""What a server counts: requests, rows, refusals, times. One thread writes."""

import bisect
import collections
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.serving.refusal import RefusedError
from dlrm_jax.serving.waiting import Answer, Batch

SECONDS = (
  *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
  *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper ends of the buckets of times."""

ROWS = tuple(2.0**n for n in range(15))
"""Upper ends of the buckets of batch sizes."""

STAGES = ('queue', 'coding', 'compute', 'total')
_RECENT = 60.0  # seconds
_MOST_RECENT = 10_000  # requests


class Histogram:
  """Numbers in buckets.

  Attributes:
    ends: upper ends of the buckets; the last bucket has none.
    counts: number of values in each bucket.
    sum: sum of all values.
  """

  def __init__(self, ends: Sequence[float]) -> None:
    self.ends = ends
    self.counts = [0] * (len(ends) + 1)
    self.sum = 0.0

  @property
  def count(self) -> int:
    """Number of values."""
    return sum(self.counts)

  def add(self, value: float) -> None:
    """Counts a value."""
    self.counts[bisect.bisect_left(self.ends, value)] += 1
    self.sum += value


class OfSize:
  """Batches of one number of rows.

  Attributes:
    count: how many.
    coding: seconds to encode their raw values.
    compute: seconds to score them.
  """

  def __init__(self) -> None:
    self.count = 0
    self.coding = self.compute = 0.0


class Recent(NamedTuple):
  """The load of the last minute.

  Attributes:
    requests: answered requests a second.
    p50: median of their seconds; 0 without any.
    p99: 99th percentile.
  """

  requests: float
  p50: float
  p99: float


class Statistics:
  """Counts of one version of a model.

  Attributes:
    answered: number of answered requests.
    rows: number of their rows.
    last: when the last batch was scored, seconds since 1970; 0: never.
    times: seconds of answered requests in each stage.
    batches: rows of batches.
    by_rows: batches by number of rows.
    refused: refused requests by the name of the status.
    refused_seconds: time that they took, in all.
    unknown: ids that were unknown, by feature.
    errors: number of batches in which the device failed.
  """

  def __init__(self, unknown: Sequence[str]) -> None:
    self.answered = self.rows = self.errors = 0
    self.last = self.refused_seconds = 0.0
    self.times = {stage: Histogram(SECONDS) for stage in STAGES}
    self.batches = Histogram(ROWS)
    self.by_rows: dict[int, OfSize] = collections.defaultdict(OfSize)
    self.refused: collections.Counter[str] = collections.Counter()
    self.unknown = dict.fromkeys(unknown, 0)
    self._recent: collections.deque[tuple[float, float]] = collections.deque(
      maxlen=_MOST_RECENT
    )

  def add_batch(self, batch: Batch) -> None:
    """Counts a batch."""
    if batch.error is not None:
      self.errors += 1
    if batch.times is not None and batch.rows:
      of_size = self.by_rows[batch.rows]
      of_size.count += 1
      of_size.coding += batch.times.coded - batch.times.taken
      of_size.compute += batch.times.scored - batch.times.coded
      self.batches.add(batch.rows)
      self.last = time.time()
    for name, count in batch.unknown.items():
      self.unknown[name] += count

  def add_answer(self, answer: Answer) -> None:
    """Counts an answer."""
    arrived, taken, coded, scored = answer.times
    self.answered += 1
    self.rows += len(answer.scores)
    seconds = (
      taken - arrived, coded - taken, scored - coded, scored - arrived
    )  # fmt: skip
    for stage, value in zip(STAGES, seconds, strict=True):
      self.times[stage].add(value)
    self._recent.append((scored, scored - arrived))

  def add_refusal(self, error: RefusedError, seconds: float) -> None:
    """Counts a refusal."""
    self.refused[error.why.value.name] += 1
    self.refused_seconds += seconds

  def recent(self) -> Recent:
    """The load of the last minute, or of the last 10,000 requests."""
    now = time.perf_counter()
    found = [(t, s) for t, s in self._recent if t > now - _RECENT]
    if not found:
      return Recent(0, 0, 0)
    p50, p99 = np.percentile([seconds for _, seconds in found], [50, 99])
    full = len(found) == _MOST_RECENT
    span = now - found[0][0] if full else _RECENT
    return Recent(len(found) / span, float(p50), float(p99))
