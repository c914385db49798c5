"""Quantised tables as torchrec keeps them: rows of bytes, u8[R, W].

A row is what FBGEMM's kernels of inference read (layout `serving` of
`quantization.fbgemm`): scale and bias as float16, then codes; or its values as
float16 or float32. Zeros follow, up to a multiple of 16 bytes.

Our storages keep the same bits, but for int8, whose scale and bias are float32
here. Those of torchrec are taken as they are; ours are rounded, and where that
changes one of them the row gets new codes, as torchrec's own operator counts
them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.embedding.low_precision import (
  BFLOAT16,
  FLOAT16,
  INT2,
  INT4,
  INT8,
  Codes,
)
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.errors import InputError
from dlrm_jax.quantization import fbgemm
from dlrm_jax.rows import Pytree

ALIGNMENT = 16
"""Rows are filled up to a multiple of so many bytes."""
STORAGES = (INT2, INT4, INT8, FLOAT16, FLOAT32)
"""The storages that torchrec has."""
QUANTISED = (INT2, INT4, INT8, FLOAT16)
"""Those that make a model a quantised one."""
_LINE = 4  # bytes of scale and bias
_MOST = 65504.0  # of float16
_PIECE = 8 * 2**20  # bytes


def storage_there(storage: Storage) -> Storage:
  """The storage that torchrec has in the place of one of ours."""
  return FLOAT32 if storage == BFLOAT16 else storage


def row_bytes(storage: Storage, dim: int) -> int:
  """Bytes of a row of `dim` values, without the zeros that follow.

  Raises:
    InputError: codes do not fill whole bytes.

  >>> row_bytes(INT8, 16), row_bytes(INT4, 16), row_bytes(FLOAT16, 16)
  (20, 12, 32)
  """
  return storage.row_bytes(dim) - (_LINE if storage == INT8 else 0)


def aligned(count: int) -> int:
  """A number of bytes, filled up.

  >>> aligned(20), aligned(32)
  (32, 32)
  """
  return -(-count // ALIGNMENT) * ALIGNMENT


def views(rows: np.ndarray, storage: Storage, dim: int) -> Any:
  """The arrays of a storage in rows u8[R, W], as views.

  Of int8 the codes alone, as its scales and biases have another dtype here.
  """
  if isinstance(storage, Codes):
    end = row_bytes(storage, dim)
    found = {'codes': rows[:, _LINE:end]}
    if storage != INT8:
      found['line'] = rows[:, :_LINE].view('<u2')
    return found
  dtype = '<f4' if storage == FLOAT32 else '<u2'
  return rows[:, : row_bytes(storage, dim)].view(dtype)


def _pieces(rows: np.ndarray) -> Iterator[slice]:
  step = max(1, _PIECE // max(rows.shape[1], 1))
  return (slice(low, low + step) for low in range(0, len(rows), step))


def used(rows: np.ndarray) -> int:
  """Number of the leading bytes of rows u8[R, W] of which some are not 0."""
  some = np.zeros(rows.shape[1], bool)
  for piece in _pieces(rows):
    some |= rows[piece].any(0)
  return int(some.nonzero()[0].max(initial=-1)) + 1


def fitting(rows: np.ndarray, dim: int) -> tuple[Storage, ...]:
  """The storages whose rows u8[R, W] may be, those of the fewest bytes first.

  Bytes behind those of a storage must be zeros, and fewer than 16.
  """
  least, width = used(rows), rows.shape[1]
  return tuple(
    storage
    for storage, size in sizes(dim)
    if least <= size <= width < size + ALIGNMENT
  )


def sizes(dim: int) -> list[tuple[Storage, int]]:
  """The storages that rows of a width may have, with their `row_bytes`."""
  found = []
  for storage in STORAGES:
    if not isinstance(storage, Codes) or dim % storage.unit == 0:
      found.append((storage, row_bytes(storage, dim)))
  return sorted(found, key=lambda pair: pair[1])


@dataclasses.dataclass(frozen=True)
class _Lines:
  """Scales and biases as a storage keeps them, read when they are asked for.

  Attributes:
    scale: f16[R].
    bias: f16[R].
    storage: the storage.
  """

  scale: np.ndarray
  bias: np.ndarray
  storage: Storage

  @property
  def shape(self) -> tuple[int, int]:
    """[R, 2]."""
    return len(self.scale), 2

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Some rows."""
    both = np.stack([self.scale[rows], self.bias[rows]], 1)
    if self.storage == INT8:
      return both.astype(np.float32)
    return both.view(np.uint16)


@dataclasses.dataclass(frozen=True)
class PackedTable:
  """A quantised table in a file, as an `Array`.

  Attributes:
    name: its name there.
    rows: u8[R, W]; codes alone where scale and bias lie apart.
    dim: D, the number of values of a row.
    fits: the storages that the rows may have; the first of them counts.
    apart: scales and biases that lie apart, f16[R] each.
  """

  name: str
  rows: np.ndarray
  dim: int
  fits: tuple[Storage, ...]
  apart: tuple[np.ndarray, np.ndarray] | None = None

  @property
  def shape(self) -> tuple[int, int]:
    """Shape of the values."""
    return len(self.rows), self.dim

  @property
  def storage(self) -> Storage:
    """How the rows are kept."""
    return self.fits[0]

  @property
  def kind(self) -> str:
    """The name of the storage."""
    return self.storage.name

  @property
  def kept(self) -> Pytree:
    """The arrays of the storage; rows are read when they are asked for."""
    if not isinstance(self.storage, Codes):
      return views(self.rows, self.storage, self.dim)
    if self.apart is not None:
      return {'codes': self.rows, 'line': _Lines(*self.apart, self.storage)}
    codes = views(self.rows, self.storage, self.dim)['codes']
    scale, bias = self.rows[:, :_LINE].view('<f2').T
    return {'codes': codes, 'line': _Lines(scale, bias, self.storage)}

  def __getitem__(self, rows: slice) -> np.ndarray:
    """The values of some rows."""
    kept: Any = self.kept
    if isinstance(kept, dict):
      some = {name: x[rows] for name, x in kept.items()}
    else:
      some = kept[rows]
    return np.asarray(self.storage.decode(some, self.dim))

  @property
  def names(self) -> list[str]:
    """Names of the storages that fit."""
    return [storage.name for storage in self.fits]

  def check(self) -> None:
    """Raises an `InputError` where it is open what rows are, or one is NaN."""
    size = row_bytes(self.storage, self.dim)
    alike = [x.name for x in self.fits if row_bytes(x, self.dim) == size]
    if len(alike) > 1:
      raise InputError(
        f'{self.name}: rows of {self.rows.shape[1]} bytes may be '
        f'{" or ".join(alike)}; say which: '
        f'--config.tables.storage={alike[0]}'
      )
    if not isinstance(self.storage, Codes):
      return
    kept: Any = self.kept
    lines = kept['line']
    for piece in _pieces(self.rows):
      scale, bias = lines.scale[piece], lines.bias[piece]
      bad = np.flatnonzero(~(np.isfinite(scale) & np.isfinite(bias)))
      if len(bad):
        row = bad[0]
        raise InputError(
          f'{self.name}: row {piece.start + row:,} has scale {scale[row]} and '
          f'bias {bias[row]}; expected finite numbers: the table had NaN or '
          f'infinity in it, or its rows are not {self.storage.name}'
        )


class Rounding(NamedTuple):
  """What became of rows whose scales and biases were rounded.

  Attributes:
    rows: number of rows with other values.
    most: largest difference of a value.
  """

  rows: int
  most: float


def round_lines(
  rows: np.ndarray, lines: np.ndarray, dim: int, name: str
) -> Rounding:
  """Puts float32 scales and biases into rows of int8, as float16.

  A row with one that float16 does not have gets codes for its values anew, as
  FBGEMM counts them.

  Args:
    rows: u8[R, W], which have codes.
    lines: f32[R, 2].
    dim: D.
    name: name of the table, for messages.

  Raises:
    InputError: float16 has no number as large as a value.
  """
  there, codes = rows[:, :_LINE], views(rows, INT8, dim)['codes']
  count, most = 0, 0.0
  for piece in _pieces(rows):
    with np.errstate(over='ignore'):
      halves = lines[piece].astype('<f2')
    there[piece] = halves.view(np.uint8)
    lost = np.flatnonzero((halves != lines[piece]).any(1))
    if not len(lost):
      continue
    of_them = np.ascontiguousarray(lines[piece][lost]).view(np.uint8)
    fused = np.concatenate([codes[piece][lost], of_them], 1)
    before = fbgemm.unpack(fused, dim, 8, 'fused')
    lost += piece.start
    _check_range(before, lost, name)
    anew = fbgemm.pack(before, 8, 'fused_half')
    codes[lost], there[lost] = anew[:, :-_LINE], anew[:, -_LINE:]
    after = fbgemm.unpack(anew, dim, 8, 'fused_half')
    differ = np.abs(after - before).max(1)
    count += int((differ > 0).sum())
    most = max(most, float(differ.max()))
  return Rounding(count, most)


def _check_range(values: np.ndarray, rows: np.ndarray, name: str) -> None:
  largest = np.abs(values).max(1)
  bad = np.flatnonzero(~(largest <= _MOST))
  if len(bad):
    raise InputError(
      f'table {name}, row {rows[bad[0]]:,}: a value is {largest[bad[0]]:g}, '
      f'and torchrec keeps scale and bias of int8 as float16, up to 65,504; '
      f'keep the table as float32 (python -m dlrm_jax.quantize)'
    )
