"""What would make a task fit that does not: one change at a time, tried."""

import bisect
import dataclasses
from collections.abc import Iterator

from dlrm_jax.embedding.layout import plan_layout
from dlrm_jax.embedding.load import RowState, Use
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError
from dlrm_jax.training.forecast import Forecast
from dlrm_jax.training.memory import step_memory
from dlrm_jax.training.plan import human

_MOST_DEVICES = 4096


def _total(forecast: Forecast, use: Use, most_rows: int) -> int | None:
  """Bytes of a device with all tables row-wise; None: impossible.

  Args:
    forecast: what does not fit.
    use: with the change.
    most_rows: into which tables are hashed.
  """
  shards = forecast.task.collection.layout.shards
  shards = shards if shards % use.devices == 0 else use.devices

  def changed(table: Table) -> Table:
    rows = min(table.rows, most_rows)
    return dataclasses.replace(table, rows=rows, placement=Placement())

  tables = [changed(table) for table in forecast.task.collection.tables]
  try:
    layout = plan_layout(tables, shards, use.hotness)
  except InputError:
    return None
  return step_memory(forecast.task, layout, use).total


class _Trials:
  """Changes to a forecast that does not fit."""

  def __init__(self, forecast: Forecast) -> None:
    self._forecast, self._use = forecast, forecast.use
    self._rows = max(t.rows for t in forecast.task.collection.tables)

  def fits(self, use: Use, rows: int | None = None) -> str | None:
    """Memory of a device in words, if it fits then."""
    total = _total(self._forecast, use, rows or self._rows)
    if total is None or total > self._forecast.budget:
      return None
    return f'{human(total)} a device'

  def row_wise(self) -> Iterator[str]:
    """Every table dealt over all shards."""
    if size := self.fits(self._use):
      yield f'--config.tables.placement=row_wise: {size}'

  def devices(self) -> Iterator[str]:
    """More of them."""
    n = 2 * self._use.devices
    while n <= _MOST_DEVICES:
      if size := self.fits(self._use._replace(devices=n)):
        yield f'{n} devices (--devices={n}): {size}'
        return
      n *= 2

  def optimizer(self) -> Iterator[str]:
    """One number a row instead of one an element."""
    less = self._use._replace(state=RowState(0, 1))
    if self._use.state.per_element and (size := self.fits(less)):
      yield f'--config.table_optimizer.name=rowwise_adagrad: {size}'

  def rows(self) -> Iterator[str]:
    """Large features hashed: into the most rows, two digits, that fit."""
    sizes = [
      digits * 10**power for power in range(2, 9) for digits in range(10, 100)
    ]
    sizes = [rows for rows in sizes if rows < self._rows]
    fitting = bisect.bisect_left(
      sizes, True, key=lambda rows: self.fits(self._use, rows) is None
    )
    if fitting:
      rows = sizes[fitting - 1]
      yield (
        f'--config.tables.encoding=hashed --config.tables.rows={rows}: '
        f'{self.fits(self._use, rows)}'
      )

  def batch(self) -> Iterator[str]:
    """Fewer examples in a step."""
    batch = self._use.batch // 2
    while batch >= self._use.devices:
      if size := self.fits(self._use._replace(batch=batch)):
        yield f'--config.train.batch_size={batch}: {size}'
        return
      batch //= 2


def advice(forecast: Forecast) -> Iterator[str]:
  """What would make it fit, line by line; nothing if it fits."""
  if forecast.fits:
    return
  trials = _Trials(forecast)
  found = [
    *trials.row_wise(),
    *trials.devices(),
    *trials.optimizer(),
    *trials.rows(),
    *trials.batch(),
  ]
  if not found:
    yield 'to fit    no single change is enough: combine more devices,'
    yield '          fewer rows and a smaller batch'
  for i, line in enumerate(found):
    yield f'{"to fit" if i == 0 else "or":<10}{line}'
