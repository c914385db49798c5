"""Rows of Criteo's features in arrays -> frames of the good rows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows, Fault
from dlrm_jax.prepare.readers.reader import numbered
from dlrm_jax.prepare.values.typed import FLOAT_MAX
from dlrm_jax.vocabulary.columns import Columns, Sparse

_HASHES = 1 << 32


class ArrayRows(NamedTuple):
  """Consecutive rows of a log.

  Attributes:
    labels: numbers [n].
    dense: numbers [n, D].
    sparse: integers [n, S].
  """

  labels: np.ndarray
  dense: np.ndarray
  sparse: np.ndarray

  def where(self, chosen: np.ndarray) -> 'ArrayRows':
    """The rows where the mask `chosen`, bool[n], is true."""
    return ArrayRows(*(part[chosen] for part in self))


def _good(columns: Columns, rows: ArrayRows) -> ArrayRows:
  """Masks of the good values, of the shapes of `rows`."""
  return ArrayRows(
    (rows.labels == 0) | (rows.labels == 1),
    np.abs(rows.dense) <= FLOAT_MAX,  # False for NaN.
    _hashes(columns.sparse, rows.sparse),
  )


def _hashes(columns: Sequence[Sparse], values: np.ndarray) -> np.ndarray:
  """Mask of the values that are 32-bit hashes; row numbers always pass."""
  rows = np.array([column.ids == 'rows' for column in columns])
  if values.dtype.itemsize == 4:  # Any 32 bits are a hash.
    return np.ones(values.shape, bool)
  return rows | (values >= 0) & (values < _HASHES)


def good_rows(
  columns: Columns,
  rows: ArrayRows,
  paths: Sequence[str],
  first: int,
  start: int,
  bad: BadRows,
) -> pl.DataFrame:
  """The good rows as a frame.

  Args:
    columns: columns of the frame.
    rows: rows as stored in the files.
    paths: files of labels, dense and sparse features.
    first: number of the first of these rows in its file, from 0.
    start: number of the piece's first row in its file, from 0.
    bad: receives the bad rows.
  """
  good = _good(columns, rows)
  whole = good.labels & good.dense.all(1) & good.sparse.all(1)
  if not whole.all():
    wrong = ~whole
    faults = _faults(columns, rows.where(wrong), good.where(wrong), paths)
    numbers = np.flatnonzero(wrong)
    for number, (path, fault) in zip(numbers, faults, strict=True):
      bad.add(path, first + int(number) + 1, fault, 'row')
    rows = rows.where(whole)
  frame = {'label': pl.Series(rows.labels.astype(np.uint8))}
  for column, values in zip(columns.dense, rows.dense.T, strict=True):
    frame[column.name] = pl.Series(np.ascontiguousarray(values))
  for column, values in zip(columns.sparse, rows.sparse.T, strict=True):
    # A hash stored as a signed number has the same bits.
    dtype = np.int64 if column.ids == 'rows' else np.uint32
    frame[column.name] = pl.Series(values.astype(dtype))
  return numbered(pl.DataFrame(frame), np.flatnonzero(whole) + first - start)


def _faults(
  columns: Columns, rows: ArrayRows, good: ArrayRows, paths: Sequence[str]
) -> Iterator[tuple[str, Fault]]:
  """The first fault of each bad row, and the file that has it."""
  labels, dense, sparse = paths
  for label, numbers, ids, fine, fine_numbers, fine_ids in zip(
    *rows, *good, strict=True
  ):
    if not fine:
      yield labels, Fault('bad label', 'label', f'{label}', '0 or 1')
    elif not fine_numbers.all():
      at = int(np.argmin(fine_numbers))
      name, value = columns.dense[at].name, f'{numbers[at]}'
      yield dense, Fault('not a number', name, value, 'a finite number')
    else:
      at = int(np.argmin(fine_ids))
      name, value = columns.sparse[at].name, f'{ids[at]:,}'
      expected = f'0 ... {_HASHES - 1:,}'
      yield sparse, Fault('id out of range', name, value, expected)
