"""Sizes and durations as people read them."""

import math

_UNITS = ('B', 'kB', 'MB', 'GB', 'TB')


def human(count: float) -> str:
  """A number of bytes with three digits; GB are 10^9 bytes.

  >>> human(2_160_000_000), human(999_999)
  ('2.16 GB', '1 MB')
  """
  count = float(f'{count:.3g}')  # before the unit is chosen: 999.9 kB is 1 MB
  power = math.floor(math.log10(max(count, 1)) / 3)
  power = min(power, len(_UNITS) - 1)
  return f'{count / 1000**power:.3g} {_UNITS[power]}'


def duration(seconds: float) -> str:
  """A duration in seconds, minutes or hours.

  >>> duration(7.52), duration(754), duration(10_000)
  ('7.5 s', '13 min', '2.8 h')
  """
  if seconds < 100:
    return f'{seconds:.{1 if seconds < 10 else 0}f} s'
  minutes = seconds / 60
  return f'{minutes:.0f} min' if minutes < 100 else f'{minutes / 60:.1f} h'
