"""The unit of work: one batch of examples, and what stands for "no id".

Letters of the whole project: `B` batch, `N` dense features, `F` sparse
features, `H` ids an example (the sum of the features' hotness).
"""

from typing import Any, NamedTuple

Array = Any  # numpy's on the host, jax's in a step

PAD = -1
"""In `Batch.ids`: no id here. Pads bags of variable length."""


class Batch(NamedTuple):
  """A batch of examples; each leaf has examples on axis 0.

  Attributes:
    dense: f32[B, N], transformed already.
    ids: i32[B, H], the features side by side, hotness columns each.
    labels: f32[B], 1 for a click.
    weights: f32[B], 0 for examples that only pad the last batch.
    id_weights: f32[B, H], or None: every id counts once.
  """

  dense: Array
  ids: Array
  labels: Array
  weights: Array
  id_weights: Array | None = None
