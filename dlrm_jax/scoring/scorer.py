"""Scores any number of rows with a function that is compiled for few sizes."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs

ROWS_AT_ONCE: Mapping[str, int] = {'cpu': 4096}
"""Rows that a device scores at once, by backend; more leave a CPU's caches."""

_ROWS_AT_ONCE = 1 << 15  # of other backends


Score = Callable[[Inputs], jax.Array]
"""A compiled function of inputs on devices -> probabilities f32[B, T]."""


class Scorer:
  """Scores any number of rows by a function that is compiled for few sizes.

  Rows are scored in pieces; the last piece is padded to a power of two of rows
  a device.
  """

  def __init__(self, score: Score, mesh: Mesh) -> None:
    """Wraps a function.

    Args:
      score: the function.
      mesh: the devices that it runs on.
    """
    self._score = score
    self._mesh = mesh
    at_once = ROWS_AT_ONCE.get(jax.default_backend(), _ROWS_AT_ONCE)
    self.most = at_once * mesh.size
    """Most rows that are scored at once."""

  def __call__(self, inputs: Inputs) -> np.ndarray:
    """Probabilities of B rows, f32[B, T]; B is at least 1."""
    rows = len(inputs.ids)
    pieces = (
      jax.tree.map(lambda x, a=a: x[a : a + self.most], inputs)
      for a in range(0, rows, self.most)
    )
    return np.concatenate(list(self.each(pieces)))

  def each(self, pieces: Iterable[Inputs]) -> Iterator[np.ndarray]:
    """Probabilities of pieces, each of at most `most` rows.

    While a piece is scored the next one is made.
    """
    waiting: list[tuple[jax.Array, int]] = []
    with sharding.use(self._mesh):
      for piece in pieces:
        rows = len(piece.ids)
        inputs = sharding.send(_padded(piece, self._size(rows)))
        waiting.append((self._score(inputs), rows))
        if len(waiting) > 1:
          yield _fetched(*waiting.pop(0))
      for late in waiting:
        yield _fetched(*late)

  def _size(self, rows: int) -> int:
    share = -(-rows // self._mesh.size)
    return self._mesh.size << (share - 1).bit_length()


def _fetched(scores: jax.Array, rows: int) -> np.ndarray:
  return sharding.local_part(scores)[:rows]


def _padded(inputs: Inputs, size: int) -> Inputs:
  """Inputs of `size` rows, the last of them without ids."""
  missing = size - len(inputs.ids)
  if not missing:
    return inputs

  def padded(x: np.ndarray, value: int) -> np.ndarray:
    return np.pad(x, [(0, missing), (0, 0)], constant_values=value)

  weights = inputs.id_weights
  return Inputs(
    padded(inputs.dense, 0),
    padded(inputs.ids, PAD),
    None if weights is None else padded(weights, 0),
  )
