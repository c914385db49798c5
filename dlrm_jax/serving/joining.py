"""Rows of several requests as one batch, and the parts of a batch."""

from collections.abc import Sequence

import numpy as np

from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.serving.interface import NetworkRows


def cut(inputs: Inputs, start: int, stop: int) -> Inputs:
  """Rows start ... stop - 1."""
  weights = inputs.id_weights
  return Inputs(
    inputs.dense[start:stop],
    inputs.ids[start:stop],
    None if weights is None else weights[start:stop],
  )


def joined(
  parts: Sequence[tuple[int, Inputs | NetworkRows]], size: int
) -> Inputs:
  """Rows one after the other, as many as `size`; the last have no ids."""
  count, first = parts[0]
  if len(parts) == 1 and count == size == len(first.ids) == len(first.dense):
    weights = first.id_weights
    if weights is None or len(weights) == count:
      return Inputs(first.dense, first.ids, weights)
  dense = np.zeros((size, first.dense.shape[1]), np.float32)
  ids = np.full((size, first.ids.shape[1]), PAD, np.int32)
  weights = None
  if first.id_weights is not None:
    weights = np.zeros(ids.shape, np.float32)
  start = 0
  for count, part in parts:
    stop = start + count
    dense[start:stop] = part.dense
    ids[start:stop] = part.ids
    if weights is not None:
      weights[start:stop] = part.id_weights
    start = stop
  return Inputs(dense, ids, weights)
