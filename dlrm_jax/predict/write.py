"""Files of predictions: CSV or Parquet, whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from dlrm_jax import files
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.predictions import Predicted

KINDS = ('.csv', '.parquet')


class Writer(Protocol):
  """Takes frames in order."""

  def add(self, frame: pl.DataFrame) -> None:
    """Writes the next rows."""
    ...


class _Csv:
  """Writes CSV to a file as rows come."""

  def __init__(self, path: Path) -> None:
    self._file = path.open('wb')
    self._first = True

  def add(self, frame: pl.DataFrame) -> None:
    """Writes the next rows."""
    frame.write_csv(self._file, include_header=self._first)
    self._first = False

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class _Parquet:
  """Writes Parquet at the end, of parts that are files of Arrow."""

  def __init__(self, folder: Path) -> None:
    folder.mkdir()
    self._folder = folder
    self._parts: list[Path] = []

  def add(self, frame: pl.DataFrame) -> None:
    """Writes the next rows."""
    self._parts.append(self._folder / f'{len(self._parts)}.arrow')
    frame.write_ipc(self._parts[-1])

  def save(self, path: Path) -> None:
    """Writes all rows as one file."""
    pl.scan_ipc(self._parts).sink_parquet(path)


@contextlib.contextmanager
def writer_of(path: Path) -> Iterator[Writer]:
  """A writer of a file that gets its name when the context ends well.

  What a killed command left of a file of this name is removed.

  Raises:
    InputError: the name says no kind of file, or it cannot be written.
  """
  files.remove_unfinished_of(path)
  with files.writing(path), files.replacing(path) as work:
    if path.suffix == '.csv':
      with contextlib.closing(_Csv(work)) as csv:
        yield csv
      return
    folder = files.unfinished_name(path)
    try:
      parquet = _Parquet(folder)
      yield parquet
      parquet.save(work)
    finally:
      shutil.rmtree(folder, ignore_errors=True)


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


def frame_of(
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
