"""Scores any number of rows with a function that is compiled for few sizes."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.errors import InputError

ROWS_AT_ONCE: Mapping[str, int] = {'cpu': 4096}
"""Rows that a device scores at once, by backend; more leave a CPU's caches."""

_ROWS_AT_ONCE = 1 << 15  # of other backends


Score = Callable[[Inputs], jax.Array | np.ndarray]
"""A compiled function of inputs on devices -> probabilities f32[B, T]."""


class Scorer:
  """Scores any number of rows by a function that is compiled for few sizes.

  Rows are scored in pieces; the last piece is padded to a power of two of rows
  a device.
  """

  def __init__(
    self,
    score: Score,
    mesh: Mesh,
    check: Callable[[Inputs], None] = lambda inputs: None,
  ) -> None:
    """Wraps a function.

    Args:
      score: the function.
      mesh: the devices that it runs on.
      check: raises an error for inputs that must not be scored.
    """
    self._score = score
    self._mesh = mesh
    self._check = check
    at_once = ROWS_AT_ONCE.get(jax.default_backend(), _ROWS_AT_ONCE)
    self.most = at_once * mesh.size
    """Most rows that are scored at once."""

  def checking(self, check: Callable[[Inputs], None]) -> 'Scorer':
    """The same scorer with a check of inputs."""
    return Scorer(self._score, self._mesh, check)

  def __call__(self, inputs: Inputs) -> np.ndarray:
    """Probabilities of B rows, f32[B, T]; B is at least 1."""
    started = [
      self.start(jax.tree.map(lambda x, a=a: x[a : a + self.most], inputs))
      for a in range(0, len(inputs.ids), self.most)
    ]
    return np.concatenate([piece.finish() for piece in started])

  def start(self, piece: Inputs) -> 'Started':
    """Starts to score at most `most` rows.

    Raises:
      InputError: they must not be scored.
    """
    self._check(piece)
    rows = len(piece.ids)
    with sharding.use(self._mesh):
      inputs = sharding.send(padded(piece, self._size(rows)))
      return Started(self._score(inputs), rows)

  def _size(self, rows: int) -> int:
    share = -(-rows // self._mesh.size)
    return self._mesh.size << (share - 1).bit_length()


class Started(NamedTuple):
  """Rows that devices are scoring, or have scored."""

  scores: jax.Array | np.ndarray
  rows: int

  def finish(self) -> np.ndarray:
    """Their probabilities, f32[rows, T], once they are scored.

    Raises:
      InputError: some are not finite.
    """
    found = sharding.local_part(self.scores)[: self.rows]
    if bad := np.count_nonzero(~np.isfinite(found).all(1)):
      raise InputError(
        f'the scores of {bad:,} of {self.rows:,} rows are not finite; expected '
        'numbers: the model has some that are not, or a row has one that is '
        'too large; choose another checkpoint, or correct the row'
      )
    return found


def padded(inputs: Inputs, size: int) -> Inputs:
  """Inputs of `size` rows, the last of them without ids."""
  missing = size - len(inputs.ids)
  if not missing:
    return inputs

  def longer(x: np.ndarray, value: int) -> np.ndarray:
    return np.pad(x, [(0, missing), (0, 0)], constant_values=value)

  weights = inputs.id_weights
  return Inputs(
    longer(inputs.dense, 0),
    longer(inputs.ids, PAD),
    None if weights is None else longer(weights, 0),
  )
