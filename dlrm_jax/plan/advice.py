"""What would make a task fit that does not: one change at a time, tried.

A change is a few flags of the plan, and what it costs is what the plan says
with them. To place tables by cost takes long on many devices, so changes are
looked for with every table row-wise, which needs about the least; only what
fits is planned again with the placements that the config asks for.
"""

import bisect
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dlrm_jax.embedding.table import Placement
from dlrm_jax.plan.forecast import Forecast
from dlrm_jax.text import human

_MOST_DEVICES = 4096

Flags = dict[str, int | str]
Retry = Callable[[Flags], Forecast | None]
"""What the plan is with flags added; None where it is refused."""

_ROW_WISE: Flags = {'config.tables.placement': 'row_wise'}


def _is_row_wise(flags: Flags) -> bool:
  return _ROW_WISE.items() <= flags.items()


class Suggestion(NamedTuple):
  """Flags that make it fit, and the bytes of a device then."""

  flags: Flags
  total: int

  def __str__(self) -> str:
    """As they are typed."""
    typed = ' '.join(f'--{name}={value}' for name, value in self.flags.items())
    return f'{typed}: {human(self.total)} a device'


class _Trials:
  """Changes to a forecast that does not fit."""

  def __init__(self, forecast: Forecast, retry: Retry) -> None:
    self._forecast, self._retry = forecast, retry
    tables = forecast.task.collection.tables
    self._rows = max(t.rows for t in tables)
    self._is_row_wise = all(t.placement == Placement() for t in tables)

  def _total(self, flags: Flags) -> int | None:
    """Bytes of a device, if it fits then."""
    found = self._retry(flags)
    return found.memory.total if found is not None and found.fits else None

  def _lean(self, flags: Flags) -> int | None:
    return self._total(flags | _ROW_WISE)

  def _suggested(self, flags: Flags) -> Iterator[Suggestion]:
    """Flags that fit with tables row-wise; without, if that fits, too."""
    for tried in (flags, flags | _ROW_WISE):
      if total := self._total(tried):
        yield Suggestion(tried, total)
        return

  def row_wise(self) -> Iterator[Suggestion]:
    """Every table dealt over all shards."""
    if not self._is_row_wise and (total := self._lean({})):
      yield Suggestion(_ROW_WISE, total)

  def devices(self) -> Iterator[Suggestion]:
    """More of them; such as divide the batch, where there are any."""
    least, batch = self._forecast.devices + 1, self._forecast.batch
    counts = [n for n in range(least, _MOST_DEVICES + 1) if batch % n == 0]
    doubled = [self._forecast.devices * 2**k for k in range(1, 13)]
    for n in counts or [n for n in doubled if n <= _MOST_DEVICES]:
      if self._lean({'devices': n}):
        yield from self._suggested({'devices': n})
        return

  def optimizer(self) -> Iterator[Suggestion]:
    """One number a row instead of one an element."""
    flags: Flags = {'config.table_optimizer.name': 'rowwise_adagrad'}
    if self._forecast.use.state.per_element and self._lean(flags):
      yield from self._suggested(flags)

  def rows(self) -> Iterator[Suggestion]:
    """Large features hashed: into the most rows, two digits, that fit."""

    def hashed(rows: int) -> Flags:
      return {'config.tables.encoding': 'hashed', 'config.tables.rows': rows}

    sizes = [
      digits * 10**power for power in range(2, 9) for digits in range(10, 100)
    ]
    sizes = [rows for rows in sizes if rows < self._rows]
    fitting = bisect.bisect_left(
      sizes, True, key=lambda rows: self._lean(hashed(rows)) is None
    )
    if fitting:
      yield from self._suggested(hashed(sizes[fitting - 1]))

  def batch(self) -> Iterator[Suggestion]:
    """Fewer examples in a step."""
    unit = math.lcm(self._forecast.devices, self._forecast.lanes)
    size = self._forecast.batch // 2 // unit * unit
    while size:
      flags: Flags = {'config.train.batch_size': size}
      if self._lean(flags):
        yield from self._suggested(flags)
        return
      size = size // 2 // unit * unit


def advice(
  forecast: Forecast, retry: Retry, more_devices: bool
) -> list[Suggestion]:
  """What would make it fit; nothing if it fits.

  Args:
    forecast: what was asked for.
    retry: plans again.
    more_devices: whether their number can be changed.
  """
  if forecast.fits:
    return []
  trials = _Trials(forecast, retry)
  found = [
    *trials.row_wise(),
    *(trials.devices() if more_devices else ()),
    *trials.optimizer(),
    *trials.rows(),
    *trials.batch(),
  ]
  enough = [s for s in found if s.flags == _ROW_WISE]
  # What is row-wise and more than that helps nobody then.
  return [
    s for s in found if not enough or s in enough or not _is_row_wise(s.flags)
  ]


def lines(forecast: Forecast, found: list[Suggestion]) -> Iterator[str]:
  """What would make it fit, line by line; nothing if it fits."""
  if not forecast.fits and not found:
    yield 'to fit    no single change is enough: combine more devices,'
    yield '          fewer rows and a smaller batch'
  for i, suggestion in enumerate(found):
    yield f'{"to fit" if i == 0 else "or":<10}{suggestion}'
