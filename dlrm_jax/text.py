"""Sizes and durations as people read them."""

import math
from collections.abc import Iterable, Sequence

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


def brief(seconds: float) -> str:
  """A duration of less than some seconds, with three digits.

  >>> brief(1.5), brief(0.01234), brief(2.5e-5), brief(0)
  ('1.5 s', '12.3 ms', '25 us', '0 us')
  """
  power = next((p for p in (0, 3) if seconds * 10**p >= 0.9995), 6)
  unit = {0: 's', 3: 'ms', 6: 'us'}[power]
  return f'{float(f"{seconds * 10**power:.3g}"):g} {unit}'


def markdown_table(
  header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> list[str]:
  r"""The lines of a table in Markdown, which also a terminal shows as a table.

  Args:
    header: names of the columns.
    rows: the cells.
    words: number of columns to align to the left; the others are numbers.

  >>> print(*markdown_table(['model', 'AUC'], [['fm', '0.97']]), sep='\n')
  | model |  AUC |
  | ----- | ---: |
  | fm    | 0.97 |
  """
  cells = [header, *rows]
  widths = [max(4, *map(len, column)) for column in zip(*cells, strict=True)]
  rules = [
    '-' * width if place < words else f'{"-" * (width - 1)}:'
    for place, width in enumerate(widths)
  ]
  return [
    '| '
    + ' | '.join(
      cell.ljust(width) if place < words else cell.rjust(width)
      for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    + ' |'
    for row in (header, rules, *cells[1:])
  ]
