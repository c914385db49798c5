"""Rows of 8, 4 or 2 bits a value, in the bytes in which FBGEMM keeps them.

A row is codes, a scale and a bias; a code stands for code * scale + bias. The
bias is the least value, the scale is the range of the row divided by the
greatest code. Codes of less than a byte share bytes, the first value in the
lowest bits. Numbers are little-endian, and rows have no padding. The layouts:

* `fused`: codes, scale, bias. The last two are float32 with codes of 8 bits,
  else float16.
* `fused_half`: codes, scale, bias, both float16 whatever the codes.
* `serving`: scale, bias, codes; both float16. Of 16 bits it has no codes but
  the values, as float16.

Scale and bias of float16 are rounded first, and codes are counted with them as
they are kept: so a scale is negative where the rounded bias lies above all
values, and 1 where it would round to 0. The 8 bits of `serving` are an
exception. Their codes are those of `fused`, counted before the rounding, as
FBGEMM's own `quantize_embs` has them, and a scale may round to 0; torchrec puts
the codes of `fused_half` there.

Bytes and decoded values are those of fbgemm-gpu-cpu 1.8.0 on a CPU with AVX2.
Its path for other CPUs differs in the sign of a bias of zero (`_order`) and in
the last bit of few values (`_summed`). Tables are taken whole, and need several
times their float32 size for a while.
"""

from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError

_HALF, _SINGLE = np.dtype('<f2'), np.dtype('<f4')
_SPARE = 1e-8  # is added to a range, so that constant rows divide by no zero
_LANES = 8  # float32 values in a register of AVX2


class _Form(NamedTuple):
  """How scale and bias of a row are kept.

  Attributes:
    kept: dtype of their bytes.
    counted: dtype that they are rounded to before codes are counted.
    first: whether they lie before the codes.
  """

  kept: np.dtype
  counted: np.dtype
  first: bool = False


class _Line(NamedTuple):
  """What the codes of each row stand for: f32[R, 1] each.

  Attributes:
    scale: what one more in the code adds.
    bias: value of code 0.
    inverse: codes for one more in the value.
  """

  scale: np.ndarray
  bias: np.ndarray
  inverse: np.ndarray


_FUSED_HALF = _Form(_HALF, _HALF)
_SERVING = _Form(_HALF, _HALF, first=True)
_FORMS: dict[str, dict[int, _Form | None]] = {  # None: values as float16
  'fused': {8: _Form(_SINGLE, _SINGLE), 4: _FUSED_HALF, 2: _FUSED_HALF},
  'fused_half': {8: _FUSED_HALF, 4: _FUSED_HALF, 2: _FUSED_HALF},
  'serving': {
    16: None,
    8: _Form(_HALF, _SINGLE, first=True),
    4: _SERVING,
    2: _SERVING,
  },
}


def row_bytes(dim: int, bits: int, layout: str) -> int:
  """Bytes of a row of `dim` values.

  Raises:
    InputError: there is no such layout, it has no such bits, or such rows do
      not end with a whole byte.

  >>> row_bytes(16, 8, 'fused'), row_bytes(16, 8, 'serving')
  (24, 20)
  """
  form = _form_of(bits, layout)
  together = max(8 // bits, 1)
  if dim < 1 or dim % together:
    raise InputError(
      f'rows of {dim} values with {bits} bits: expected a positive multiple of '
      f'{together}, so that they fill whole bytes; choose another width or '
      f'other bits'
    )
  return dim * bits // 8 + (2 * form.kept.itemsize if form else 0)


def pack(values: np.ndarray, bits: int, layout: str) -> np.ndarray:
  """The bytes that FBGEMM keeps for a table.

  Args:
    values: f32[R, D].
    bits: of a code: 8, 4 or 2; in layout `serving` also 16.
    layout: `fused`, `fused_half` or `serving`.

  Returns:
    u8[R, W], where W is `row_bytes`.

  Raises:
    InputError: a value is not finite, or float16, respectively float32, cannot
      have what is to be kept (FBGEMM makes the row NaN or infinite); the array
      is of another type or rank; or as `row_bytes` has it.
  """
  values = _table('values', values, np.float32)
  _check_finite(values)
  row_bytes(values.shape[1], bits, layout)
  form = _form_of(bits, layout)
  if form is None:
    return _as_halves(values)
  line = _line_of(values, bits, form)
  numbers = _numbers_of(line, values, form)
  parts = [_joined(_codes_of(values, line, bits), bits), numbers]
  return np.concatenate(parts[::-1] if form.first else parts, 1)


def unpack(rows: np.ndarray, dim: int, bits: int, layout: str) -> np.ndarray:
  """The values that FBGEMM reads in the bytes of a table.

  Args:
    rows: u8[R, W], where W is `row_bytes`.
    dim: D.
    bits: as in `pack`.
    layout: as in `pack`.

  Returns:
    f32[R, D]; a scale or bias that is not finite gives a row of what IEEE 754
    says.

  Raises:
    InputError: rows have another number of bytes, or are of another type or
      rank; or as `row_bytes` has it.
  """
  rows = _table('rows', rows, np.uint8)
  width = row_bytes(dim, bits, layout)
  if rows.shape[1] != width:
    raise InputError(
      f'rows of {rows.shape[1]} bytes: expected {width}, which {dim} values of '
      f'{bits} bits have in layout {layout}; name the width, bits and layout '
      f'that they were made with, and cut off padding'
    )
  form = _form_of(bits, layout)
  if form is None:
    return _numbers_in(rows, _HALF)
  size = 2 * form.kept.itemsize
  numbers, codes = (
    (rows[:, :size], rows[:, size:])
    if form.first
    else (rows[:, -size:], rows[:, :-size])
  )
  scale, bias = np.split(_numbers_in(numbers, form.kept), 2, 1)
  return _decoded(_parted(codes, bits), scale, bias, form)


def _table(name: str, table: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
  """A table as NumPy has it; an `InputError` for what is none of a type."""
  table = np.asarray(table)
  if table.ndim != 2 or table.dtype != dtype:
    raise InputError(
      f'{name} are {table.dtype} of shape {table.shape}; expected '
      f'{np.dtype(dtype)} of shape (rows, width)'
    )
  return table


def _form_of(bits: int, layout: str) -> _Form | None:
  if layout not in _FORMS:
    raise InputError(
      f'layout {layout}: there is none; expected one of {", ".join(_FORMS)}'
    )
  forms = _FORMS[layout]
  if bits not in forms:
    raise InputError(
      f'{bits} bits: layout {layout} has none; expected one of '
      f'{", ".join(map(str, forms))}'
    )
  return forms[bits]


def _check_finite(values: np.ndarray) -> None:
  bad = np.argwhere(~np.isfinite(values))
  if len(bad):
    row, column = bad[0]
    raise InputError(
      f'row {row}, column {column}: the value is {values[row, column]}; '
      f'expected a finite number, as codes stand for no other; correct the '
      f'table, or keep it as float32'
    )


def _as_halves(values: np.ndarray) -> np.ndarray:
  """Values as float16: u8[R, 2 * D]."""
  with np.errstate(over='ignore'):
    halves = values.astype(_HALF, order='C')
  bad = np.argwhere(np.isinf(halves))
  if len(bad):
    row, column = bad[0]
    raise InputError(
      f'row {row}, column {column}: the value is {values[row, column]:g}; '
      f'expected one that float16 has, below 65520; keep the table as float32'
    )
  return halves.view(np.uint8)


def _line_of(values: np.ndarray, bits: int, form: _Form) -> _Line:
  """The line of each row; it is not finite where a dtype cannot have it."""
  top = 2**bits - 1
  with np.errstate(over='ignore', invalid='ignore'):
    bias = _rounded(_lowest(values), form.counted)
    spread = values.max(1, keepdims=True) - bias + 0  # -0.0 - 0.0 is -0.0
    scale = _rounded(spread / top, form.counted)
    if form.counted == _SINGLE:
      return _Line(scale, bias, top / (spread + _SPARE))
  scale[scale == 0] = 1
  return _Line(scale, bias, 1 / scale)


def _lowest(values: np.ndarray) -> np.ndarray:
  """The least value of each row, f32[R, 1].

  Where the least are zeros of both signs, FBGEMM keeps the sign of one of
  them: the first in `_order`.
  """
  lowest = values.min(1)
  rows = np.flatnonzero(lowest == 0)
  zeros = values[rows][:, _order(values.shape[1])]
  lowest[rows] = zeros[np.arange(len(rows)), zeros.argmin(1)]
  return lowest[:, None]


def _order(dim: int) -> np.ndarray:
  """Columns, those first whose value FBGEMM keeps among equal ones: i64[dim].

  Each lane of a register keeps the last one that it saw, then the first lane
  wins; columns that fill no register come after.

  >>> _order(18)
  array([ 8,  0,  9,  1, 10,  2, 11,  3, 12,  4, 13,  5, 14,  6, 15,  7, 16,
         17])
  """
  columns = np.arange(dim)
  full = _in_registers(dim)
  lanes = columns[:full].reshape(-1, _LANES)[::-1].T
  return np.concatenate([lanes.reshape(-1), columns[full:]])


def _rounded(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Float32 numbers that `dtype` has, too."""
  return numbers.astype(dtype).astype(np.float32)


def _numbers_of(line: _Line, values: np.ndarray, form: _Form) -> np.ndarray:
  """Scale and bias as they are kept: u8[R, 4] or u8[R, 8]."""
  with np.errstate(over='ignore'):
    numbers = np.concatenate([line.scale, line.bias], 1).astype(form.kept)
  bad = np.flatnonzero(~np.isfinite(numbers).all(1))
  if len(bad):
    row = bad[0]
    raise InputError(
      f'row {row}: values from {values[row].min():g} to '
      f'{values[row].max():g}; expected a least value and a range whose scale '
      f'{form.kept.name} has; keep the table as float32'
    )
  return numbers.view(np.uint8)


def _codes_of(values: np.ndarray, line: _Line, bits: int) -> np.ndarray:
  """Codes u8[R, D], rounded to nearest, ties to even."""
  codes = np.rint((values - line.bias) * line.inverse)
  return np.clip(codes, 0, 2**bits - 1).astype(np.uint8)


def _joined(codes: np.ndarray, bits: int) -> np.ndarray:
  """Codes u8[R, D] in bytes u8[R, D * bits / 8].

  >>> _joined(np.array([[1, 2, 15, 0]], np.uint8), 4)
  array([[33, 15]], dtype=uint8)
  """
  shifts = _shifts(bits)
  apart = codes.reshape(len(codes), codes.shape[1] // len(shifts), len(shifts))
  return np.bitwise_or.reduce(apart << shifts, 2)


def _parted(joined: np.ndarray, bits: int) -> np.ndarray:
  """Bytes u8[R, D * bits / 8] to codes u8[R, D]."""
  codes = joined[:, :, None] >> _shifts(bits) & np.uint8(2**bits - 1)
  return codes.reshape(len(joined), joined.shape[1] * 8 // bits)


def _shifts(bits: int) -> np.ndarray:
  """Where the codes of a byte begin: u8[8 / bits]."""
  return np.arange(0, 8, bits, dtype=np.uint8)


def _numbers_in(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Numbers f32[R, n] in their bytes u8[R, n * itemsize]."""
  return np.ascontiguousarray(rows).view(dtype).astype(np.float32)


def _decoded(
  codes: np.ndarray, scale: np.ndarray, bias: np.ndarray, form: _Form
) -> np.ndarray:
  """Values f32[R, D] of codes u8[R, D], scales and biases f32[R, 1]."""
  with np.errstate(over='ignore', invalid='ignore'):
    if form.kept == _SINGLE:
      return _summed(codes, scale, bias)
    # Code and float16 have 19 bits together: float32 has the product.
    return codes.astype(np.float32) * scale + bias


def _summed(
  codes: np.ndarray, scale: np.ndarray, bias: np.ndarray
) -> np.ndarray:
  """Code * scale + bias, f32[R, D], of float32 scales and biases.

  FBGEMM sums in float64 the columns that fill no register, and in fused
  multiply-adds the others. Those are rounded once; so the error of the float64
  (Knuth's two-sum) makes its last bit odd, which is then no tie of float32.
  """
  product = np.multiply(codes, scale, dtype=np.float64)
  total = product + bias
  part = total - product
  error = (product - (total - part)) + (bias - part)
  wrong = (total.view(np.int64) % 2 == 0) & np.isfinite(error) & (error != 0)
  wrong[:, _in_registers(codes.shape[1]) :] = False
  toward = np.copysign(np.inf, error[wrong])
  total[wrong] = np.nextafter(total[wrong], toward)
  return total.astype(np.float32)


def _in_registers(dim: int) -> int:
  """How many of the columns fill registers."""
  return dim // _LANES * _LANES
