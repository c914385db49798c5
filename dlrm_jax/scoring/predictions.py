"""Predictions of rows in the order of their files, in bounded memory."""

import collections
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import polars as pl

from dlrm_jax.batch import Inputs
from dlrm_jax.scoring.ahead import ahead
from dlrm_jax.scoring.logs import ScorableRows
from dlrm_jax.scoring.scorer import Scorer, Started

_MOST_WAITING = 16  # frames of rows, which may all be bad


class Predicted(NamedTuple):
  """Consecutive rows of a log with their predictions.

  Attributes:
    scores: probabilities of the good rows, f32[good, T].
    good: which of the n rows are good, bool[n].
    kept: as in `ScorableRows`.
  """

  scores: np.ndarray
  good: np.ndarray
  kept: pl.DataFrame | None


class _Pipeline:
  """Rows on their way from a file to their predictions.

  Rows wait until all good ones among them are scored. A piece has as many rows
  as are scored at once; it is smaller where too many rows would wait.
  """

  def __init__(self, scorer: Scorer, tasks: int) -> None:
    self._scorer = scorer
    self._waiting: collections.deque[ScorableRows] = collections.deque()
    self._held: list[Inputs] = []
    self._started: collections.deque[Started] = collections.deque()
    self._scored = np.empty((0, tasks), np.float32)

  def add(self, some: ScorableRows) -> None:
    """Takes the next rows, and starts to score whole pieces."""
    self._waiting.append(some)
    if some.inputs is not None:
      self._held.append(some.inputs)
    most = self._scorer.most
    while sum(len(x.ids) for x in self._held) >= most:
      self._start(most)
    if len(self._waiting) > _MOST_WAITING:
      self.flush()

  def flush(self) -> None:
    """Scores all rows that were taken."""
    if self._held:
      self._start(self._scorer.most)
    self._finish(0)

  def _start(self, most: int) -> None:
    joined = self._held[0]  # mostly the rest of a large frame
    if len(self._held) > 1:
      joined = jax.tree.map(lambda *x: np.concatenate(x), *self._held)
    rest = jax.tree.map(lambda x: x[most:], joined)
    self._held = [rest] if len(rest.ids) else []
    piece = jax.tree.map(lambda x: x[:most], joined)
    self._started.append(self._scorer.start(piece))
    self._finish(1)  # while one is scored the next one is read

  def _finish(self, left: int) -> None:
    """Waits until at most `left` pieces are being scored."""
    while len(self._started) > left:
      scores = self._started.popleft().finish()
      self._scored = np.concatenate([self._scored, scores])

  def finished(self) -> Iterator[Predicted]:
    """Rows whose predictions are there, in order."""
    while self._waiting:
      count = np.count_nonzero(self._waiting[0].good)
      if count > len(self._scored):
        return
      some = self._waiting.popleft()
      yield Predicted(self._scored[:count], some.good, some.kept)
      self._scored = self._scored[count:]


def predictions(
  scorer: Scorer, rows: Iterable[ScorableRows], tasks: int
) -> Iterator[Predicted]:
  """Scores rows while the next ones are read in a thread.

  Args:
    scorer: the model's scorer.
    rows: the rows, in order.
    tasks: T.
  """
  pipeline = _Pipeline(scorer, tasks)
  for some in ahead(rows):
    pipeline.add(some)
    yield from pipeline.finished()
  pipeline.flush()
  yield from pipeline.finished()
