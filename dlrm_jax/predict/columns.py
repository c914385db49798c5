"""The columns of a file of predictions."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.scoring.predictions import Predicted


def columns_of(labels: Sequence[str]) -> list[str]:
  """Names of the columns of predictions."""
  if len(labels) == 1:
    return ['probability']
  return [f'probability_{label}' for label in labels]


def check_names(labels: Sequence[str], kept: Sequence[str]) -> None:
  """Raises an `InputError` where a kept column has the name of another."""
  names = [*columns_of(labels), *kept]
  for name in kept:
    if names.count(name) > 1:
      raise InputError(
        f'--keep={",".join(kept)}: there would be two columns {name!r}; leave '
        'one of them out'
      )


def predictions_frame(
  some: Predicted, labels: Sequence[str], kept: Sequence[str]
) -> pl.DataFrame:
  """Rows of the file: the columns to keep, then predictions.

  Bad rows have empty predictions.
  """
  columns = some.kept
  if columns is None:  # no row could be read
    columns = pl.DataFrame(schema=dict.fromkeys(kept, pl.String))
    columns = columns.clear(len(some.good)) if kept else columns
  row = np.cumsum(some.good) - 1
  missing = pl.Series(~some.good)
  scores = [
    pl.Series(name, _spread(of_task, row, some.good), pl.Float32)
    .to_frame()
    .select(pl.when(~missing).then(pl.col(name)))
    .to_series()
    for name, of_task in zip(columns_of(labels), some.scores.T, strict=True)
  ]
  return columns.hstack(scores) if kept else pl.DataFrame(scores)


def _spread(
  scores: np.ndarray, row: np.ndarray, good: np.ndarray
) -> np.ndarray:
  """Scores of good rows -> of all rows, 0 for bad ones."""
  if not len(scores):
    return np.zeros(len(good), np.float32)
  return np.where(good, scores[row], np.float32(0))
