"""The meter of the steps: mean loss, speed, and whether losses are finite.

The metrics of a step are read one step late, so that the host never waits for
the device while it could prepare the next batch.
"""

import math
import time

from dlrm_jax.errors import InputError
from dlrm_jax.training.step import StepMetrics

ADVICE = (
  'Lower the learning rates or lengthen their warm-up, and start in another '
  '--workdir'
)


class Meter:
  """Mean loss and examples a second since it was last read."""

  def __init__(
    self, batch_size: int, unread: tuple[float, int] = (0.0, 0)
  ) -> None:
    """Starts to count.

    Args:
      batch_size: number of examples of a step.
      unread: sum and number of the losses since the last line of the log of a
        run that goes on.
    """
    self._batch_size = batch_size
    self._late: tuple[int, StepMetrics] | None = None
    self.restart()
    self._before = unread

  def restart(self) -> None:
    """Starts to count anew, from now."""
    self._losses: list[float] = []
    self._before = 0.0, 0
    self._start = time.perf_counter()

  def add(self, step: int, metrics: StepMetrics) -> None:
    """Takes a step's metrics, and reads those of the step before.

    Raises:
      InputError: that step's loss was not finite.
    """
    self.settle()
    self._late = step, metrics

  def settle(self) -> None:
    """Reads the last step's metrics, too; raises as `add` does."""
    if self._late is not None:
      self._losses.append(_finite_loss(*self._late))
      self._late = None

  @property
  def unread(self) -> tuple[float, int]:
    """Sum of the losses of the settled steps, and their number."""
    total, steps = self._before
    return math.fsum([total, *self._losses]), steps + len(self._losses)

  def read(self) -> dict[str, float]:
    """`loss` and `examples_per_second` of the settled steps; restarts."""
    seconds = time.perf_counter() - self._start
    total, steps = self.unread
    line = {
      'loss': total / steps,
      'examples_per_second': len(self._losses) * self._batch_size / seconds,
    }
    self.restart()
    return line


def _finite_loss(step: int, metrics: StepMetrics) -> float:
  loss = float(metrics.loss)
  if math.isfinite(loss):
    return loss
  largest = {name: float(x) for name, x in metrics.largest.items()}
  bad = [name for name, x in largest.items() if not math.isfinite(x)]
  sizes = ', '.join(f'{name} {x:.4g}' for name, x in largest.items())
  raise InputError(
    f'step {step}: the loss is {loss}; not finite are, in the order that they '
    f'are computed: {", ".join(bad)}. Largest magnitudes: {sizes}. {ADVICE}'
  )
