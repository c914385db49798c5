"""The unit of work: the inputs of one batch of examples, and its labels.

Letters of the whole project: `B` batch, `N` dense features, `F` sparse
features, `H` ids an example (the sum of the columns' hotness), `T` tasks.
"""

from typing import Any, NamedTuple

Array = Any  # a NumPy array on the host, a JAX array in a step

PAD = -1
"""The id that means "no id here"; it pads bags of variable length."""

NO_GROUP = -1
"""The group of examples that belong to none."""


class Inputs(NamedTuple):
  """What scoring needs of a batch; each leaf has examples on axis 0.

  Attributes:
    dense: f32[B, N], the transformed dense features.
    ids: i32[B, H], the sparse columns side by side, as many columns of the
      array for each as its hotness.
    id_weights: f32[B, H], the weights of the ids; None: every id counts once.
    group: i32[B], the user or request of each example, for metrics within
      groups, `NO_GROUP` for none; None: the data has no groups.
  """

  dense: Array
  ids: Array
  id_weights: Array | None = None
  group: Array | None = None


class Batch(NamedTuple):
  """A batch of labelled examples; each leaf has examples on axis 0.

  Attributes:
    inputs: the features.
    labels: f32[B, T], 1 for a click, 0 for none; NaN where an example has no
      label for a task.
    weights: f32[B], 0 for examples that only pad the last batch.
  """

  inputs: Inputs
  labels: Array
  weights: Array
