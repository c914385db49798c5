"""Times of rows -> numbers that sort in the same order."""

import polars as pl

from dlrm_jax.prepare.values.typed import (
  Parsed,
  Typed,
  Words,
  as_number,
  is_number,
  stripped,
)

_DAY = r'([0-9]{4})[-/]([0-9]{2})[-/]([0-9]{2})'
_CLOCK = r'(?:[ T]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]{1,9})?)?'
_ZONE = r' ?(Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?'
_WHEN = f'^{_DAY}{_CLOCK}{_ZONE}$'


def as_time(typed: Typed, *, quick: bool = False) -> Parsed | None:
  """Times as f64; dates become seconds since 1970.

  A column of text holds either numbers or dates: where any row is a date, rows
  with a number are bad.

  Args:
    typed: numbers, dates, or text.
    quick: parse plain numbers only.

  Returns:
    None where the type cannot hold times.
  """
  x, dtype = typed
  if isinstance(dtype, (pl.Date, pl.Datetime)):
    value = x.cast(pl.Datetime('us')).dt.epoch('us') / 1e6
    return Parsed(value, x.is_null(), 'no time', 'a time')
  if not is_number(dtype) or dtype == pl.Boolean:
    return None
  parsed = as_number(typed, Words(), quick=quick)
  if typed.is_text and not quick:
    moment = _moment(stripped(x))
    dates = moment.is_not_null().any()
    numbers = pl.when(parsed.present).then(parsed.value)
    value = pl.when(dates).then(moment).otherwise(numbers)
    parsed = Parsed(value, parsed.missing, '', '')
  expected = 'a number in all rows, or in all a date such as 2014-10-21 00:15'
  return parsed._replace(kind='no time', expected=expected)


def _moment(s: pl.Expr) -> pl.Expr:
  """Dates, with or without a time and a zone, in seconds since 1970."""
  part = s.str.extract_groups(_WHEN).struct
  day = pl.concat_str(part[0], part[1], part[2], separator='-')
  clock = pl.concat_str(
    part[3].fill_null('00:00'),
    part[4].fill_null(':00'),
    part[5].fill_null('.0'),
  )
  moment = pl.concat_str(day, clock, separator=' ').str.strptime(
    pl.Datetime('us'), '%Y-%m-%d %H:%M:%S%.f', strict=False
  )
  zone = part[6].str.extract_groups('([+-])([0-9]{2}):?([0-9]{2})?').struct
  hours, minutes = zone[1].cast(pl.Int64), zone[2].cast(pl.Int64).fill_null(0)
  seconds = 3600 * hours + 60 * minutes
  ahead = pl.when(zone[0] == '-').then(-seconds).otherwise(seconds)
  return moment.dt.epoch('us') / 1e6 - ahead.fill_null(0)
