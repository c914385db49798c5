"""The compiled function of a served model, for a few numbers of rows."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.scoring.engine import engine_of
from dlrm_jax.scoring.function import LoadedNetwork

_SECOND = 8  # size after 1: between them a call takes as long

_TIMES = 5


def sizes_up_to(most: int, devices: int) -> list[int]:
  """Numbers of rows to compile for: 1, 8, 16, 32, ..., and the greatest.

  Args:
    most: greatest number of rows.
    devices: number of devices, which divides the sizes.

  >>> sizes_up_to(100, 1), sizes_up_to(16, 4)
  ([1, 8, 16, 32, 64, 100], [4, 8, 16])
  """

  def wanted() -> Iterator[int]:
    yield 1
    size = _SECOND
    while size < most:
      yield size
      size *= 2
    yield most

  return sorted({-(-size // devices) * devices for size in wanted()})


class Program:
  """A network that scores up to a number of rows at a time.

  Attributes:
    loaded: the network and its arrays.
    engine: what multiplies its int8 layers, for people; '' without such.
    sizes: the numbers of rows that it is compiled for.
    seconds: what a call took, by size, once it is warm.
  """

  def __init__(
    self, loaded: LoadedNetwork, most: int, *, weighted: bool
  ) -> None:
    """Wraps a network.

    Args:
      loaded: the network and its arrays.
      most: greatest number of rows of a call.
      weighted: whether it takes the weights of ids.
    """
    self.sizes = sizes_up_to(most, loaded.mesh.size)
    self.seconds: dict[int, float] = {}
    self._cuts: list[tuple[int, ...]] = [()]  # by number of rows
    self.loaded, self._weighted = loaded, weighted

    def outputs(logits: jax.Array) -> jax.Array:
      # One array, so that one copy brings both to the host.
      return jnp.stack([jax.nn.sigmoid(logits), logits], -1)

    network, layers, tables, mesh = loaded
    with sharding.use(mesh):
      made = engine_of(network, layers, tables, outputs)
    self._score, self.engine = made

  def compile(self, size: int) -> None:
    """Compiles for one of the sizes."""
    inputs = self._padding(size)
    self(inputs)
    self.seconds[size] = min(self._timed(inputs) for _ in range(_TIMES))

  def check(self) -> None:
    """Scores a few rows without ids; raises what a failing device says."""
    self(self._padding(self.sizes[0]))

  def _padding(self, size: int) -> Inputs:
    """Rows without ids."""
    network = self.loaded.network
    return Inputs(
      np.zeros((size, network.dense_features), np.float32),
      np.full((size, network.ids), PAD, np.int32),
      np.zeros((size, network.ids), np.float32) if self._weighted else None,
    )

  def _timed(self, inputs: Inputs) -> float:
    start = time.perf_counter()
    self(inputs)
    return time.perf_counter() - start

  def seconds_for(self, rows: int) -> float:
    """What so many rows take, about."""
    return sum(self.seconds[size] for size in self.cuts(rows))

  def cuts(self, rows: int) -> tuple[int, ...]:
    """Sizes of the calls that score so many rows soonest.

    The last rows of the last call may be padding. 65 rows are a call of 64 and
    one of 1 on a CPU, and one of 128 on a device that takes as long for it.
    """
    # Those of fewer rows come first: the best of many are made of them.
    for count in range(len(self._cuts), rows + 1):
      best = (next(size for size in self.sizes if size >= count),)
      seconds = self.seconds[best[0]]
      for size in self.sizes:
        if size < count:
          rest = self._cuts[count - size]
          together = self.seconds[size] + sum(self.seconds[x] for x in rest)
          if together < seconds:
            best, seconds = (size, *rest), together
      self._cuts.append(best)
    return self._cuts[rows]

  def __call__(self, inputs: Inputs) -> np.ndarray:
    """Scores as many rows as one of the sizes.

    Returns:
      Probability and logit, f32[rows, T, 2].
    """
    mesh = self.loaded.mesh
    with sharding.use(mesh):
      if mesh.size == 1:
        return np.asarray(self._score(inputs))
      return sharding.local_part(self._score(sharding.send(inputs)))
