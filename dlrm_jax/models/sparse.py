"""Products of a batch and a kernel of mostly zeros, compiled for its pattern.

Where the weights are that are left is known when a program is compiled: it is
constant there, and only the weights are arguments. FBGEMM generates machine
code for a pattern (Khudia et al., arXiv 2101.05615); here a kernel in C goes
through constant lists of inputs. On other devices there is the form that XLA
multiplies itself.
"""

import dataclasses
import enum
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dlrm_jax import native
from dlrm_jax.models.product import product

_MOST_RUNS = 32
"""Of columns that XLA copies one by one; a gather of more is faster."""


class Form(enum.Enum):
  """What of a kernel is kept.

  SINGLES: the weights that are not 0; for CPUs.
  STRIPS: of each input, the strips of 16 outputs that are not all 0; for CPUs.
  SMALLER: the rows and columns that are not all 0, as a smaller kernel.
  """

  SINGLES = '1x1'
  STRIPS = '1x16'
  SMALLER = 'smaller'


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
  """Which weights of a kernel f32[in, out] are kept.

  Attributes:
    form: how they are kept.
    shape: of the weights that are kept: [n] as SINGLES, [n, 16] as STRIPS,
      [inputs, outputs] as SMALLER.
    width: out.
    inputs: i32[n], input of each weight or strip; as SMALLER of each row.
    outputs: i32[groups + 1], where the weights of each output or strip of
      outputs begin; as SMALLER i32[out], the column of each output, which is
      beyond the last one where all its weights are 0.
  """

  form: Form
  shape: tuple[int, ...]
  width: int
  inputs: np.ndarray
  outputs: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Sparse:
  """Layers of which some multiply sparse kernels; they score.

  Attributes:
    dense: dtype of what all other layers multiply.
    patterns: pattern by name of the kernel, as `model/top/dense_0/kernel`.
  """

  dense: DTypeLike
  patterns: Mapping[str, Pattern]


def packed(kernel: np.ndarray, form: Form) -> tuple[Pattern, np.ndarray]:
  """The pattern of a kernel f32[in, out], and the weights that it keeps.

  >>> pattern, weights = packed(np.array([[0, 2], [3, 4]]), Form.SINGLES)
  >>> weights.tolist(), pattern.inputs.tolist(), pattern.outputs.tolist()
  ([3, 2, 4], [1, 0, 1], [0, 1, 3])
  """
  if form is Form.SMALLER:
    live = kernel != 0
    inputs, columns = np.flatnonzero(live.any(1)), live.any(0)
    weights = kernel[inputs][:, columns]
    outputs = np.where(columns, np.cumsum(columns) - 1, weights.shape[1])
  else:
    strip = native.STRIP if form is Form.STRIPS else 1
    groups = -(-kernel.shape[1] // strip)
    spare = groups * strip - kernel.shape[1]
    strips = np.pad(kernel, [(0, 0), (0, spare)]).reshape(-1, groups, strip)
    group, inputs = np.nonzero((strips != 0).any(2).T)
    weights = strips[inputs, group]
    if form is Form.SINGLES:
      weights = weights[:, 0]
    outputs = np.searchsorted(group, np.arange(groups + 1))
  pattern = Pattern(
    form,
    weights.shape,
    kernel.shape[1],
    inputs.astype(np.int32),
    outputs.astype(np.int32),
  )
  return pattern, weights


def _columns(x: jax.Array, wanted: np.ndarray) -> jax.Array:
  """Columns of f32[B, n], which are copied as runs where these are few."""
  runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
  if not len(wanted) or len(runs) > _MOST_RUNS:
    return x[:, wanted]
  parts = [x[:, run[0] : run[-1] + 1] for run in runs]
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)


def sparse_product(
  x: jax.Array, weights: jax.Array, pattern: Pattern
) -> jax.Array:
  """The product f32[B, out] of a batch f32[B, in] and a packed kernel."""
  inputs, outputs = pattern.inputs, pattern.outputs
  if pattern.form is not Form.SMALLER:
    return native.sparse(x, weights, inputs, outputs, pattern.width)
  y = product(_columns(x, inputs), weights)
  if pattern.shape[1] < pattern.width:
    y = jnp.pad(y, [(0, 0), (0, 1)])[:, outputs]
  return y
