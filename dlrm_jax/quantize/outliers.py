"""Inputs of int8 layers that stay float32: their share, and what they gain."""

from collections.abc import Sequence

import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.quantize.model import Model, int8_kernels
from dlrm_jax.run.evaluation import Evaluator


def error_of(model: Model, wanted: Model, batches: Sequence[Batch]) -> float:
  """The squared error of logits over the variance of those wanted."""
  found, right = (
    Evaluator(x.run.task).logits(x.state, iter(batches))
    for x in (model, wanted)
  )
  return float(np.mean((found - right) ** 2) / np.var(right))


def lines_of(
  model: Model, without: Model, wanted: Model, batches: Sequence[Batch]
) -> list[str]:
  """What outliers are and gain, for people.

  Args:
    model: the model with them.
    without: the same without them.
    wanted: the model of floats.
    batches: the examples that it was calibrated on.
  """
  outliers = model.run.config.model.outliers
  kernels = int8_kernels(model.run)
  kept = sum(min(outliers, i) * o for i, o in kernels.values())
  share = kept / sum(i * o for i, o in kernels.values())
  errors = [error_of(x, wanted, batches) for x in (model, without)]
  said = [
    f'outliers  {share:.2%} of the weights stay float32; squared error of the '
    f'logits over their variance: {errors[0]:.2g}, without them {errors[1]:.2g}'
  ]
  if whole := [name for name, (i, _) in kernels.items() if i <= outliers]:
    said.append(
      f'note      layers with no more than {outliers} inputs stay float32 as '
      f'a whole: {", ".join(whole)}'
    )
  return said
