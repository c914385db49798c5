"""Raw columns -> numbers, integers, hex digits or text.

All functions return Polars expressions over whole columns, or over the
elements of bags. Text is parsed in two ways: a quick one that knows only plain
spellings, and a slower one for all others (`+5`, ` 5`, `5.0`, `NULL`). `rules`
uses the slow way for the rows in which the quick way finds no good value.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import polars as pl

from dlrm_jax.errors import InputError
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
"""Words for a missing number, in lower case."""

_EXACT = 2**53
"""float64 holds all smaller whole numbers exactly."""


class Words(NamedTuple):
  """A log's own words for "missing", in addition to nulls and `MISSING`.

  Attributes:
    texts: all of these words.
    numbers: the words that are numbers.
  """

  texts: tuple[str, ...] = ()
  numbers: tuple[int | float, ...] = ()


class Parsed(NamedTuple):
  """A parsed column, or the parsed elements of its bags.

  Attributes:
    value: the values; null where a value is missing or bad.
    missing: mask of the missing values.
    kind: kind of fault of a bad value.
    expected: description of good values, for messages.
    sure: mask of the good values among those that are not null; None: all.
  """

  value: pl.Expr
  missing: pl.Expr
  kind: str
  expected: str
  sure: pl.Expr | None = None

  @property
  def present(self) -> pl.Expr:
    """Mask of the good values that are not missing."""
    present = self.value.is_not_null()
    return present if self.sure is None else present & self.sure

  @property
  def good(self) -> pl.Expr:
    """Mask of the values that are good or missing."""
    return self.present | self.missing


class Typed(NamedTuple):
  """An expression and its type."""

  x: pl.Expr
  dtype: pl.DataType

  @property
  def is_text(self) -> bool:
    """Whether values are text."""
    return self.dtype == pl.String


def read_words(field: str, value: Any) -> Words:
  """Reads the config's own words for "missing".

  Raises:
    InputError: the value is no list of words and numbers.
  """
  if not isinstance(value, (list, tuple)) or not all(
    isinstance(word, str) or type(word) in (int, float) for word in value
  ):
    raise InputError(
      f'config.{field} is {value!r}; expected a list of words and numbers'
    )
  texts = tuple(map(str, value))
  numbers = tuple(
    int(word) if re.fullmatch('[+-]?[0-9]{1,20}', word) else float(word)
    for word in texts
    if re.match(full_match(NUMBER), word)
  )
  return Words(texts, numbers)


def plain(x: pl.Expr, dtype: pl.DataType) -> Typed:
  """Casts categories, enums, bytes and all-null columns to strings.

  Arrays become lists, and extension types their storage types. Bytes that are
  not UTF-8 become a NUL character, which is a fault in every kind of value.
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
      texts = [None if v is None else _text(v) for v in values]
      return pl.Series(values.name, texts, pl.String)

  return x.map_batches(decoded, return_dtype=pl.String)


def _text(value: bytes) -> str:
  try:
    return value.decode()
  except UnicodeDecodeError:
    return '\0'


def is_number(dtype: pl.DataType) -> bool:
  """Whether a column of this type may hold numbers, or text of numbers."""
  return dtype.is_numeric() or dtype in (pl.Boolean, pl.String)


def full_match(pattern: str) -> str:
  """A pattern that matches only the whole text."""
  return f'^(?:{pattern})$'


def stripped(x: pl.Expr) -> pl.Expr:
  """Text without the spaces and tabs around it."""
  return x.str.strip_chars(' \t')


def is_missing_text(
  s: pl.Expr, words: Words, usual: Sequence[str] = MISSING
) -> pl.Expr:
  """Mask of the stripped texts that mean "missing"."""
  own = [word.strip(' \t') for word in words.texts]
  return s.is_null() | s.str.to_lowercase().is_in(usual) | s.is_in(own)


def _without(parsed: Parsed, numbers: Sequence[float]) -> Parsed:
  """Marks some numbers as missing."""
  if not numbers:
    return parsed
  lost = pl.any_horizontal(parsed.value == number for number in numbers)
  lost = lost.fill_null(False)
  return parsed._replace(
    value=pl.when(~lost).then(parsed.value), missing=parsed.missing | lost
  )


def truth(
  s: pl.Expr, yes: Sequence[str] = ('true',), no: Sequence[str] = ('false',)
) -> pl.Expr:
  """1 for `yes` words, 0 for `no` words in any case, null for others."""
  s = s.str.to_lowercase()
  return pl.when(s.is_in(yes)).then(1).when(s.is_in(no)).then(0)


def as_number(
  typed: Typed,
  words: Words,
  *,
  above: float | None = None,
  quick: bool = False,
) -> Parsed:
  """Numbers that float32 can hold, f64; NaN is missing.

  Args:
    typed: numbers, booleans or text.
    words: the log's own words for "missing".
    above: lower bound, itself not allowed.
    quick: parse plain spellings only.
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
    value = pl.when(x.str.contains(full_match(NUMBER))).then(value)
    value = pl.coalesce(value, truth(x).cast(pl.Float64))
  sure = (value.abs() <= FLOAT_MAX) & value.is_not_nan()
  expected = 'a finite number'
  if above is not None:
    sure &= value > above
    expected += f' above {above:g}'
  if typed.is_text and quick:
    sure &= x.str.contains(full_match(NUMBER))
  parsed = Parsed(value, missing, 'not a number', expected, sure)
  return _without(parsed, words.numbers)


def as_integer(
  typed: Typed, words: Words, *, quick: bool = False
) -> Parsed | None:
  """64-bit integers, signed or unsigned, as Int64 keys (see `keys`).

  Args:
    typed: integers, whole numbers of any type, booleans, or text.
    words: the log's own words for "missing".
    quick: parse plain spellings that fit Int64 only.

  Returns:
    None where the type cannot hold integers.
  """
  x, dtype = typed
  missing, expected = x.is_null(), 'an integer, -2^63 ... 2^64 - 1'
  sure = None
  if typed.is_text:
    if quick:
      value = x.cast(pl.Int64, strict=False)
      sure = x.str.contains(full_match(INTEGER))
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
  parsed = Parsed(value, missing, 'not an integer', expected, sure)
  whole_numbers = [keys.as_int64(int(n)) for n in words.numbers if n % 1 == 0]
  return _without(parsed, whole_numbers)


def wide(x: pl.Expr) -> pl.Expr:
  """Integers of any width, or their text, as Int64 keys.

  Null where an integer has more than 64 bits.
  """
  signed = x.cast(pl.Int64, strict=False)
  return pl.coalesce(
    signed, keys.column_as_int64(x.cast(pl.UInt64, strict=False))
  )


def _limit(dtype: pl.DataType) -> int:
  """Floats of this type hold all smaller whole numbers exactly."""
  if isinstance(dtype, pl.Float64):
    return _EXACT
  return 2**24 if isinstance(dtype, pl.Float32) else 2**11


def _of_float(x: pl.Expr, limit: int) -> pl.Expr:
  """Whole floats below `limit` in absolute value as Int64; else null."""
  good = (x.abs() < limit) & (x.floor() == x)
  return pl.when(good).then(x.cast(pl.Int64, strict=False))


def _spelt(s: pl.Expr) -> pl.Expr:
  """Integers in any spelling of a number: +5, 005, 5.0, 5e3, true."""
  digits = s.str.replace(r'\.0*$', '')
  exact = wide(digits)
  exact = pl.when(digits.str.contains(full_match('[+-]?[0-9]+'))).then(exact)
  double = s.cast(pl.Float64, strict=False)
  double = pl.when(s.str.contains(full_match(NUMBER))).then(double)
  of_float = _of_float(double, _EXACT)
  return pl.coalesce(exact, of_float, truth(s).cast(pl.Int64))


def as_hex(typed: Typed, words: Words, *, quick: bool = False) -> Parsed | None:
  """1 to 8 hex digits, as UInt32; None where the column is not text."""
  x = typed.x
  if not typed.is_text:
    return None
  missing = x.is_null()
  if not quick:
    x = stripped(x)
    missing = is_missing_text(x, words)
  value = x.str.to_integer(base=16, dtype=pl.UInt32, strict=False)
  sure = x.str.contains(full_match(HEX))
  if words.texts:
    lost = x.is_in(list(words.texts))
    value, missing = pl.when(~lost).then(value), missing | lost
  return Parsed(value, missing, 'not hex', '1 to 8 hex digits', sure)


def as_text(
  typed: Typed, words: Words, *, quick: bool = False
) -> Parsed | None:
  """Text, unchanged; None where the column is not text."""
  del quick  # Text has only one spelling.
  x = typed.x
  if not typed.is_text:
    return None
  missing = x.is_null()
  sure = ~x.str.contains('\0', literal=True)
  if words.texts:
    lost = x.is_in(list(words.texts))
    x, missing = pl.when(~lost).then(x), missing | lost
  return Parsed(x, missing, 'no text', 'UTF-8 text without NUL bytes', sure)


KINDS: dict[str, Callable[..., Parsed | None]] = {
  'string': as_text,
  'integer': as_integer,
  'hex': as_hex,
}
"""Parsers of sparse values, by the schema's name for them."""
