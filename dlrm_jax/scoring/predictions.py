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
from dlrm_jax.scoring.scorer import Scorer


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


def predictions(
  scorer: Scorer, rows: Iterable[ScorableRows], tasks: int
) -> Iterator[Predicted]:
  """Scores rows while the next ones are read in a thread.

  Args:
    scorer: the model's scorer.
    rows: the rows, in order.
    tasks: T.
  """
  waiting: collections.deque[ScorableRows] = collections.deque()
  scored = np.empty((0, tasks), np.float32)

  def inputs() -> Iterator[Inputs]:
    for some in ahead(rows):
      waiting.append(some)
      if some.inputs is not None:
        yield some.inputs

  def finished() -> Iterator[Predicted]:
    nonlocal scored
    while waiting and np.count_nonzero(waiting[0].good) <= len(scored):
      some = waiting.popleft()
      count = np.count_nonzero(some.good)
      yield Predicted(scored[:count], some.good, some.kept)
      scored = scored[count:]

  for scores in scorer.each(_regrouped(inputs(), scorer.most)):
    scored = np.concatenate([scored, scores])
    yield from finished()
  yield from finished()


def _regrouped(pieces: Iterable[Inputs], size: int) -> Iterator[Inputs]:
  """The same rows in pieces of `size`, the last one smaller."""
  held: list[Inputs] = []
  rows = 0
  for piece in pieces:
    held.append(piece)
    rows += len(piece.ids)
    if rows < size:
      continue
    joined = jax.tree.map(lambda *x: np.concatenate(x), *held)
    whole = rows - rows % size
    for start in range(0, whole, size):
      yield _part(joined, start, start + size)
    held, rows = [_part(joined, whole, rows)], rows - whole
  if rows:
    yield jax.tree.map(lambda *x: np.concatenate(x), *held)


def _part(inputs: Inputs, start: int, stop: int) -> Inputs:
  return jax.tree.map(lambda x: x[start:stop], inputs)
