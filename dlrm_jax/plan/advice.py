"""One change of a config that makes a task fit into the memory of its devices.

Every change is tried by planning again. Choosing placements by cost takes long
on many devices, so a change is tried first with all tables row-wise, which
needs about the least memory.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dlrm_jax.plan.forecast import Forecast
from dlrm_jax.text import human

_MOST_DEVICES = 4096

Flags = dict[str, int | str]
Replan = Callable[[Flags], Forecast | None]
"""The forecast with flags added; None where the plan refuses them."""

_ROW_WISE: Flags = {'config.tables.placement': 'row_wise'}


class Hint(NamedTuple):
  """Flags that make a task fit, and the bytes of a device with them."""

  flags: Flags
  total: int

  def __str__(self) -> str:
    typed = ' '.join(f'--{name}={value}' for name, value in self.flags.items())
    return f'{typed}: {human(self.total)} a device'


def _changes(forecast: Forecast, *, more_devices: bool) -> Iterator[Flags]:
  """Changes to try, in order; all tables are row-wise in addition."""
  yield {}
  if more_devices:
    for n in range(forecast.devices + 1, _MOST_DEVICES + 1):
      if forecast.batch % n == 0:
        yield {'devices': n}
  largest = max(table.rows for table in forecast.task.collection.tables)
  for power in range(8, 1, -1):
    for rows in (5 * 10**power, 2 * 10**power, 10**power):
      if rows < largest:
        yield {'config.tables.encoding': 'hashed', 'config.tables.rows': rows}


def find_hint(
  forecast: Forecast, replan: Replan, *, more_devices: bool
) -> Hint | None:
  """The first change that makes a task fit.

  In this order: all tables row-wise, more devices, and large features hashed
  into fewer rows. Placements are changed only where it is necessary.

  Args:
    forecast: the plan of the task.
    replan: plans again with flags added.
    more_devices: whether the number of devices can be changed.

  Returns:
    None if the task fits, or if no change is enough.
  """
  if forecast.fits:
    return None
  for flags in _changes(forecast, more_devices=more_devices):
    row_wise = replan(flags | _ROW_WISE)
    if row_wise is not None and row_wise.fits:
      same_places = replan(flags)
      if same_places is not None and same_places.fits:
        return Hint(flags, same_places.memory.total)
      return Hint(flags | _ROW_WISE, row_wise.memory.total)
  return None


def hint_lines(forecast: Forecast, hint: Hint | None) -> Iterator[str]:
  """The hint as lines; none if the task fits."""
  if hint is not None:
    yield f'to fit    {hint}'
  elif not forecast.fits:
    yield 'to fit    no single change is enough: combine more devices,'
    yield '          fewer rows and a smaller batch'
