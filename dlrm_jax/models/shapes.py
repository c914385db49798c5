"""What a model gets: the shapes of its inputs."""

from collections.abc import Mapping
from typing import NamedTuple

VECTORS = 'vectors'
"""The role of the vectors that interact, the only one of DLRM."""


LINEAR = 'linear'
"""The role of weights: a vector of width 1 for each id."""


class Shapes(NamedTuple):
  """Shapes of the inputs of a model, without the batch.

  Attributes:
    dense: N, the number of dense features.
    vectors: role -> (features, width) of its vectors, f32[B, features, width].
  """

  dense: int
  vectors: Mapping[str, tuple[int, int]]
