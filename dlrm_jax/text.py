"""Numbers as text for people."""

import math


def human(count: float) -> str:
  """A number of bytes with a decimal unit and three digits.

  >>> human(2_160_000_000)
  '2.16 GB'
  """
  power = min(max(math.floor(math.log10(max(count, 1)) / 3), 0), 4)
  return f'{count / 1000**power:.3g} {("B", "kB", "MB", "GB", "TB")[power]}'
