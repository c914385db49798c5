"""Values of a raw log, as files have them -> what they mean.

The functions are Polars expressions over whole columns, or over the elements
of bags. Columns of text have two of each: one for numbers that are written
plainly, and one, slower, for all other spellings (`+5`, ` 5`, `5.0`, `NULL`).
`raw_rules` tries the second where the first finds what it does not know.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl

from dlrm_jax.vocabulary import keys

FLOAT_MAX = 3.4028234663852886e38
"""The largest float32."""

INTEGER = r'[+-]?[0-9]{1,19}'
NUMBER = r'[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?'
HEX = '[0-9a-fA-F]{1,8}'

MISSING = (
  *('', '-', '?', '\\n', 'nan', '-nan', 'nat', '<na>', 'na', 'n/a', '#n/a'),
  *('null', 'none'),
)
"""What programs write for a number that is missing, in lower case."""

_EXACT = 2**53
"""Doubles hold all whole numbers below."""


class Words(NamedTuple):
  """What means "missing" in all columns, beside what always does.

  Attributes:
    texts: words.
    numbers: those of them that are numbers.
  """

  texts: tuple[str, ...] = ()
  numbers: tuple[int | float, ...] = ()


class Made(NamedTuple):
  """Of a column, or of the elements of its bags.

  Attributes:
    value: what values are; null where there is none, or no good one.
    missing: where there is none.
    kind: of fault, where a value is not good.
    expected: what should be there.
    sure: where values that are not null are good; None: everywhere.
  """

  value: pl.Expr
  missing: pl.Expr
  kind: str
  expected: str
  sure: pl.Expr | None = None

  @property
  def found(self) -> pl.Expr:
    """Where there is a good value."""
    found = self.value.is_not_null()
    return found if self.sure is None else found & self.sure

  @property
  def good(self) -> pl.Expr:
    """Where there is a good value, or none."""
    return self.found | self.missing


class Typed(NamedTuple):
  """An expression and the type that it has."""

  x: pl.Expr
  dtype: pl.DataType

  @property
  def is_text(self) -> bool:
    """Whether values are text."""
    return self.dtype == pl.String


def plain(x: pl.Expr, dtype: pl.DataType) -> Typed:
  """Text of any kind as strings, lists of any kind as lists, by their storage.

  Nothing but nulls is text, too: it can be all that text can be. Bytes that
  are not UTF-8 become a NUL, which no value may have.
  """
  # Older versions of Polars read the storage of extension types.
  if isinstance(dtype, getattr(pl, 'BaseExtension', ())):
    return plain(x.ext.storage(), dtype.ext_storage())
  if isinstance(dtype, pl.Array):
    return plain(x.arr.to_list(), pl.List(dtype.inner))
  inner = dtype.inner if isinstance(dtype, pl.List) else dtype
  if isinstance(inner, (pl.Categorical, pl.Enum, pl.Null, pl.Binary)):
    text = pl.List(pl.String) if isinstance(dtype, pl.List) else pl.String()
    if not isinstance(inner, pl.Binary):
      return Typed(x.cast(text), text)
    if isinstance(dtype, pl.List):
      return Typed(x.list.eval(_decoded(pl.element())), text)
    return Typed(_decoded(x), text)
  return Typed(x, dtype)


def _decoded(x: pl.Expr) -> pl.Expr:
  def decoded(values: pl.Series) -> pl.Series:
    try:
      return values.cast(pl.String)
    except pl.exceptions.PolarsError:
      found = [None if v is None else _text(v) for v in values]
      return pl.Series(values.name, found, pl.String)

  return x.map_batches(decoded, return_dtype=pl.String)


def _text(value: bytes) -> str:
  try:
    return value.decode()
  except UnicodeDecodeError:
    return '\0'


def is_number(dtype: pl.DataType) -> bool:
  """Whether a column may have numbers."""
  return dtype.is_numeric() or dtype in (pl.Boolean, pl.String)


def whole(pattern: str) -> str:
  """A pattern of whole texts."""
  return f'^(?:{pattern})$'


def stripped(x: pl.Expr) -> pl.Expr:
  """Text without the blanks around it."""
  return x.str.strip_chars(' \t')


def is_missing_text(
  s: pl.Expr, words: Words, usual: Sequence[str] = MISSING
) -> pl.Expr:
  """Where stripped text is a word that means "missing"."""
  own = [word.strip(' \t') for word in words.texts]
  return s.is_null() | s.str.to_lowercase().is_in(usual) | s.is_in(own)


def _without(made: Made, numbers: Sequence[float]) -> Made:
  """Numbers without those that mean "missing"."""
  if not numbers:
    return made
  lost = pl.any_horizontal(made.value == number for number in numbers)
  lost = lost.fill_null(False)
  return made._replace(
    value=pl.when(~lost).then(made.value), missing=made.missing | lost
  )


def truth(
  s: pl.Expr, yes: Sequence[str] = ('true',), no: Sequence[str] = ('false',)
) -> pl.Expr:
  """1 and 0 for words in any case, null for others."""
  s = s.str.to_lowercase()
  return pl.when(s.is_in(yes)).then(1).when(s.is_in(no)).then(0)


def number(
  typed: Typed, words: Words, above: float | None = None, quick: bool = False
) -> Made:
  """Numbers that float32 can hold; NaN is a missing one.

  Args:
    typed: numbers, booleans or text.
    words: what else is missing.
    above: the least number that is not good any more.
    quick: only plainly written ones.
  """
  x, missing = typed.x, typed.x.is_null()
  if not typed.is_text:
    value = x.cast(pl.Float64, strict=False)
    if typed.dtype.is_float():
      value = value.fill_nan(None)
      missing = value.is_null()
  elif quick:
    value = x.cast(pl.Float64, strict=False)
  else:
    x = stripped(x)
    missing = is_missing_text(x, words)
    value = x.cast(pl.Float64, strict=False)
    value = pl.when(x.str.contains(whole(NUMBER))).then(value)
    value = pl.coalesce(value, truth(x).cast(pl.Float64))
  sure = (value.abs() <= FLOAT_MAX) & value.is_not_nan()
  expected = 'a finite number'
  if above is not None:
    sure &= value > above
    expected += f' above {above:g}'
  if typed.is_text and quick:
    sure &= x.str.contains(whole(NUMBER))
  made = Made(value, missing, 'not a number', expected, sure)
  return _without(made, words.numbers)


def integer(typed: Typed, words: Words, quick: bool = False) -> Made | None:
  """Integers of 64 bits, with a sign or without, as `keys` keeps them: Int64.

  Args:
    typed: integers, whole numbers of any type, booleans, or text.
    words: what is missing, beside nulls and NaN.
    quick: only plainly written ones that fit Int64.

  Returns:
    None, where values of this type are no integers.
  """
  x, dtype = typed
  missing, expected = x.is_null(), 'an integer, -2^63 ... 2^64 - 1'
  sure = None
  if typed.is_text:
    if quick:
      value = x.cast(pl.Int64, strict=False)
      sure = x.str.contains(whole(INTEGER))
    else:
      s = stripped(x)
      value = _spelt(s)
      missing = is_missing_text(s, words)
  elif dtype == pl.Boolean:
    value = x.cast(pl.Int64)
  elif dtype.is_float():
    limit = _limit(dtype)
    value = _of_float(x, limit)
    missing |= x.is_nan().fill_null(False)
    expected = f'a whole number below 2^{limit.bit_length() - 1} ({dtype})'
  elif dtype.is_decimal():
    value = pl.when(x.floor() == x).then(wide(x))
  elif dtype.is_integer():
    narrow = dtype.is_signed_integer() and dtype != pl.Int128
    value = x.cast(pl.Int64) if narrow else wide(x)
  else:
    return None
  made = Made(value, missing, 'not an integer', expected, sure)
  whole_numbers = [keys.as_int64(int(n)) for n in words.numbers if n % 1 == 0]
  return _without(made, whole_numbers)


def wide(x: pl.Expr) -> pl.Expr:
  """Integers of any width, or as text; null where they exceed 64 bits."""
  signed = x.cast(pl.Int64, strict=False)
  return pl.coalesce(
    signed, keys.column_as_int64(x.cast(pl.UInt64, strict=False))
  )


def _limit(dtype: pl.DataType) -> int:
  """Floats of a type hold all whole numbers below."""
  if isinstance(dtype, pl.Float64):
    return _EXACT
  return 2**24 if isinstance(dtype, pl.Float32) else 2**11


def _of_float(x: pl.Expr, limit: int) -> pl.Expr:
  good = (x.abs() < limit) & (x.floor() == x)
  return pl.when(good).then(x.cast(pl.Int64, strict=False))


def _spelt(s: pl.Expr) -> pl.Expr:
  """Integers in any spelling that numbers have: +5, 005, 5.0, 5e3, true."""
  digits = s.str.replace(r'\.0*$', '')
  exact = wide(digits)
  exact = pl.when(digits.str.contains(whole('[+-]?[0-9]+'))).then(exact)
  double = s.cast(pl.Float64, strict=False)
  double = pl.when(s.str.contains(whole(NUMBER))).then(double)
  of_float = _of_float(double, _EXACT)
  return pl.coalesce(exact, of_float, truth(s).cast(pl.Int64))


def hexadecimal(typed: Typed, words: Words, quick: bool = False) -> Made | None:
  """1 to 8 hex digits: UInt32."""
  x = typed.x
  if not typed.is_text:
    return None
  missing = x.is_null()
  if not quick:
    x = stripped(x)
    missing = is_missing_text(x, words)
  value = x.str.to_integer(base=16, dtype=pl.UInt32, strict=False)
  sure = x.str.contains(whole(HEX))
  if words.texts:
    lost = x.is_in(list(words.texts))
    value, missing = pl.when(~lost).then(value), missing | lost
  return Made(value, missing, 'not hex', '1 to 8 hex digits', sure)


def text(typed: Typed, words: Words, quick: bool = False) -> Made | None:
  """Text as it is, with the blanks around it."""
  del quick  # There are no two ways.
  x = typed.x
  if not typed.is_text:
    return None
  missing = x.is_null()
  sure = ~x.str.contains('\0', literal=True)
  if words.texts:
    lost = x.is_in(list(words.texts))
    x, missing = pl.when(~lost).then(x), missing | lost
  return Made(x, missing, 'no text', 'UTF-8 text without NUL bytes', sure)


KINDS: dict[str, Callable[..., Made | None]] = {
  'string': text,
  'integer': integer,
  'hex': hexadecimal,
}
"""How sparse values are read, by what the schema calls them."""
