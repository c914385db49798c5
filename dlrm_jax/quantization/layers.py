"""The layers of a trained model as codes of 8 bits, and their calibration.

`quantize_layers` turns float32 kernels into those of the int8 model: codes
rounded to nearest, ties to even, with a scale for each output. `calibrate`
finds the limits of the inputs of each layer on batches of data, which such
models need whose `activations` are calibrated, or that have outliers.

Arrays and kernels have the names of the parameters, with `/` between them, such
as `model/top/dense_0/kernel`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.embedding.collection import Tables
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.errors import InputError
from dlrm_jax.models.int8 import GREATEST
from dlrm_jax.models.layer import Layer
from dlrm_jax.quantization.method import Method
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import send

_BINS = 1024
_SHARE = 1e-4  # of the inputs that PERCENTILE cuts off, at each end


class Range(NamedTuple):
  """The inputs of a kernel.

  Attributes:
    low: the lower limit, 0 or less.
    high: the upper limit, 0 or more.
    outliers: i32[n], the inputs that were greatest in size, in their order;
      they are not within the limits.
  """

  low: float
  high: float
  outliers: np.ndarray


Ranges = Mapping[str, Range]
"""Those of all kernels, by name."""


def quantize_layers(
  params: Pytree, like: Pytree, ranges: Ranges | None = None
) -> Pytree:
  """The parameters of an int8 model from those of a trained one.

  Args:
    params: parameters of the trained model, `Layers.params`.
    like: shapes and dtypes of those of the int8 model; its config says which
      arrays there are.
    ranges: what `calibrate` found; None: the model needs none.

  Returns:
    Arrays of NumPy, in the structure of `like`.

  Raises:
    InputError: a weight is NaN or infinite, or the model needs ranges.
  """
  floats = {k: np.asarray(x) for k, x in _flat(params).items()}
  wanted = _flat(like)
  made = dict(floats)
  for name, shape in wanted.items():
    if shape.dtype == np.int8:
      found = None if ranges is None else ranges[name]
      made |= _kernel(name, floats[name], found)
  missing = [name for name in wanted if name not in made]
  if missing:
    raise InputError(
      f'config.model.compute_dtype is int8: {missing[0]} needs the inputs of '
      f'its layer; calibrate the layers, or set config.model.activations=row '
      f'and config.model.outliers=0'
    )
  return unflatten_dict({k: made[k] for k in wanted}, sep='/')


def _flat(tree: Pytree) -> dict[str, Any]:
  return flatten_dict(dict(tree), sep='/')


def _kernel(
  name: str, weights: np.ndarray, found: Range | None
) -> dict[str, np.ndarray]:
  """All arrays that a kernel f32[in, out] may have in an int8 model."""
  bad = np.argwhere(~np.isfinite(weights))
  if len(bad):
    row, column = bad[0]
    raise InputError(
      f'layer {name}: the weight [{row}, {column}] is {weights[row, column]}; '
      f'expected finite numbers; choose another checkpoint'
    )
  made = {}
  if found is not None:
    made[f'{name}_range'] = np.array([found.low, found.high], np.float32)
    made[f'{name}_inputs'] = found.outliers
    made[f'{name}_exact'] = weights[found.outliers]
    weights = weights.copy()
    weights[found.outliers] = 0
  scale = np.abs(weights).max(0) / np.float32(GREATEST)
  steps = weights.astype(np.float64) / np.where(scale > 0, scale, 1)
  codes = np.rint(steps).clip(-GREATEST, GREATEST) * (scale > 0)
  made[name] = codes.astype(np.int8)
  made[f'{name}_scale'] = scale
  made[f'{name}_sums'] = (codes.sum(0) * scale).astype(np.float32)
  return made


def calibrate(
  network: Network,
  layers: Layers,
  tables: Tables,
  batches: Sequence[Batch],
  method: Method,
  outliers: int = 0,
) -> dict[str, Range]:
  """Finds the limits of the inputs of all kernels, in the float model.

  The batches are scored twice, on the mesh in use, by one process.

  Args:
    network: the float model.
    layers: its layers.
    tables: its tables.
    batches: batches of equal size, of NumPy; examples of weight 0 do not
      count.
    method: what the limits are.
    outliers: as in `dlrm_jax.models.int8.Int8`.

  Raises:
    InputError: there is no example, or an input is NaN or infinite.
  """
  score = jax.jit(functools.partial(_inputs, network))

  def observed() -> Iterator[tuple[str, np.ndarray]]:
    for batch in batches:
      counts = np.asarray(batch.weights) > 0
      found = score(layers, tables, send(batch.inputs))
      yield from ((name, np.asarray(x)[counts]) for name, x in found.items())

  seen: dict[str, _Seen] = {}
  for name, x in observed():
    seen.setdefault(name, _Seen(x.shape[1])).widen(x)
  for name, of_kernel in seen.items():
    of_kernel.start(name, outliers)
  for name, x in observed():
    seen[name].count(x)
  return {name: of_kernel.limits(method) for name, of_kernel in seen.items()}


class _Seen:
  """The inputs that a kernel had: their extremes, then a histogram."""

  def __init__(self, inputs: int) -> None:
    self._low = np.full(inputs, np.inf, np.float32)
    self._high = -self._low

  def widen(self, x: np.ndarray) -> None:
    """Takes in the extremes of f32[n, in]."""
    self._low = np.minimum(self._low, x.min(0, initial=np.inf))
    self._high = np.maximum(self._high, x.max(0, initial=-np.inf))

  def start(self, name: str, outliers: int) -> None:
    """Chooses the outliers, and begins a histogram of all other inputs.

    Args:
      name: name of the kernel.
      outliers: number of outliers.
    """
    sizes = np.maximum(np.abs(self._low), np.abs(self._high))
    if not np.isfinite(sizes).all():
      raise InputError(
        f'layer {name}: an input is NaN or infinite, or there is no example to '
        f'calibrate on; choose another checkpoint, or name data with examples'
      )
    order = np.argsort(-sizes, stable=True).astype(np.int32)
    self._outliers, self._others = (
      np.sort(part) for part in np.split(order, [outliers])
    )
    low = self._low[self._others].min(initial=0)  # 0 has a code
    high = self._high[self._others].max(initial=0)
    self._edges = np.linspace(low, high, _BINS + 1, dtype=np.float64)
    self._counts = np.zeros(_BINS)

  def count(self, x: np.ndarray) -> None:
    """Adds inputs f32[n, in] to the histogram."""
    ends = self._edges[0], self._edges[-1]
    self._counts += np.histogram(x[:, self._others], _BINS, ends)[0]

  def limits(self, method: Method) -> Range:
    """The limits of what was counted."""
    low, high = 0, _BINS
    if method is Method.PERCENTILE:
      share = np.cumsum(self._counts) / max(self._counts.sum(), 1)
      low = int(np.searchsorted(share, _SHARE, 'right'))
      high = int(np.searchsorted(share[:-1], 1 - _SHARE)) + 1
    elif method is Method.LEAST_SQUARES:
      low, high = _least_squares(self._counts, self._edges)
    low, high = min(self._edges[low], 0), max(self._edges[high], 0)
    return Range(float(low), float(high), self._outliers)


def _least_squares(counts: np.ndarray, edges: np.ndarray) -> tuple[int, int]:
  """The edges of a histogram that are the best limits.

  Args:
    counts: numbers in the bins, f64[n].
    edges: of the bins, f64[n + 1].
  """
  away = edges[:, None] - (edges[1:] + edges[:-1]) / 2
  below = np.maximum(away, 0) ** 2 @ counts
  above = np.minimum(away, 0) ** 2 @ counts
  within = np.concatenate([[0], np.cumsum(counts)])
  step = (edges - edges[:, None]) / (2 * GREATEST + 1)
  rounded = step**2 / 12 * (within - within[:, None])
  errors = below[:, None] + above + rounded
  errors[np.tril_indices(len(edges))] = np.inf  # low must be less than high
  errors[edges > 0], errors[:, edges < 0] = np.inf, np.inf
  low, high = np.unravel_index(errors.argmin(), errors.shape)
  return int(low), int(high)


def _inputs(
  network: Network, layers: Layers, tables: Tables, inputs: Inputs
) -> dict[str, jax.Array]:
  """The inputs of all kernels, f32[B, in] each."""
  found: dict[str, jax.Array] = {}

  def noted(
    method: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    if context.method_name == 'times' and isinstance(context.module, Layer):
      x, name = arguments[:2]
      found['/'.join((*context.module.path, name))] = x
    return method(*arguments, **options)

  with nn.intercept_methods(noted):
    network.outputs(layers, tables, inputs)
  return found
