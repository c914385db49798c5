"""Layers with few of their weights, and which of them are faster so."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from dlrm_jax.errors import InputError
from dlrm_jax.models.product import product
from dlrm_jax.models.sparse import Form, packed, sparse_product
from dlrm_jax.optim.pruning import Pruning, kernels_of, pruned
from dlrm_jax.quantization.sparse import usable
from dlrm_jax.quantize.timing import medians
from dlrm_jax.rows import Pytree
from dlrm_jax.text import brief, markdown_table

DENSE = 'dense'
SECONDS, MOST_ROUNDS = 0.25, 500
"""How long calls are measured, and how often at most."""


class SparseChoice(NamedTuple):
  """How layers are pruned, and for what they shall be fast.

  Attributes:
    pruning: how kernels are pruned.
    batch: number of examples of a call.
  """

  pruning: Pruning
  batch: int


class Product(NamedTuple):
  """A product of a batch f32[B, in] with a kernel.

  Attributes:
    call: a function of the batch and the weights, to f32[B, out].
    weights: what it takes of the kernel.
  """

  call: Callable[[jax.Array, jax.Array], jax.Array]
  weights: np.ndarray


class Measured(NamedTuple):
  """A pruned kernel, and how long its products take.

  Attributes:
    name: its name.
    shape: in and out.
    kept: the share of its weights that are not 0.
    seconds: median time of a product, by `dense` or the value of a `Form`.
  """

  name: str
  shape: tuple[int, ...]
  kept: float
  seconds: Mapping[str, float]

  @property
  def fastest(self) -> str:
    """The product that took the least time; whole where they tie."""
    return min(self.seconds, key=lambda x: self.seconds[x])


class Sparse(NamedTuple):
  """What was measured of a model with zeros.

  Attributes:
    kernels: its kernels with zeros.
    packed: median time of a call of all of it, kernels that are faster packed
      being so; NaN where none is.
    whole: the same with whole kernels.
  """

  kernels: tuple[Measured, ...]
  packed: float
  whole: float

  @property
  def kept(self) -> bool:
    """Whether kernels stay packed."""
    return self.packed < self.whole


def prune(params: Pytree, pruning: Pruning) -> Pytree:
  """The parameters of a model with pruned kernels.

  Raises:
    InputError: the model has no kernels that can be pruned, or they have no
      zeros then.
  """
  kernels = kernels_of(params)
  if not kernels:
    raise InputError(
      f'--sparsity={pruning.sparsity:g}: the model has no layers of several '
      f'outputs, so there is nothing to prune'
    )
  made = {name: pruned(kernel, pruning) for name, kernel in kernels.items()}
  if all(bool(jnp.all(kernel != 0)) for kernel in made.values()):
    why = 'so many blocks that one goes' if pruning.sparsity else 'zeros'
    raise InputError(
      f'--sparsity={pruning.sparsity:g} --block={pruning.block} has no effect: '
      f'no kernel has {why}; choose a higher sparsity, or smaller blocks'
    )
  whole: dict[str, Any] = flatten_dict(dict(params), sep='/')
  return unflatten_dict(whole | made, sep='/')


def measure(params: Pytree, batch: int, dense: DTypeLike) -> list[Measured]:
  """Measures the products of all kernels with zeros, on the devices in use.

  Args:
    params: parameters of a model.
    batch: number of examples.
    dense: dtype of whole products.
  """
  return [
    Measured(
      name,
      kernel.shape,
      np.count_nonzero(kernel) / kernel.size,
      seconds_of(products_of(kernel, dense), batch),
    )
    for name, kernel in (
      (name, np.asarray(x)) for name, x in kernels_of(params).items()
    )
    if not kernel.all()
  ]


def products_of(kernel: np.ndarray, dense: DTypeLike) -> dict[str, Product]:
  """The products of a kernel f32[in, out] on the devices in use, by name.

  Forms that would keep all of it are left out.
  """
  found: dict[str, Product] = {
    DENSE: Product(partial(product, dtype=dense), kernel)
  }
  for form in filter(usable, Form):
    pattern, weights = packed(kernel, form)
    if weights.shape != kernel.shape:
      call = partial(sparse_product, pattern=pattern)
      found[form.value] = Product(call, weights)
  return found


def seconds_of(
  products: Mapping[str, Product], examples: int
) -> dict[str, float]:
  """Median time of a product, by name; they take turns.

  Args:
    products: products of one kernel, with `DENSE` among them.
    examples: number of examples.
  """
  inputs = len(products[DENSE].weights)
  x = np.random.default_rng(0).normal(size=(examples, inputs))
  x = jnp.asarray(x, jnp.float32)
  calls = {
    name: partial(_done, jax.jit(call), x, jnp.asarray(weights))
    for name, (call, weights) in products.items()
  }
  return medians(calls, SECONDS, MOST_ROUNDS)


def _done(call: Callable[..., jax.Array], *operands: jax.Array) -> None:
  jax.block_until_ready(call(*operands))


def chosen_forms(found: Sequence[Measured]) -> tuple[str, ...]:
  """The entries of `config.model.sparse`: kernels that are faster packed."""
  return tuple(f'{x.name}={x.fastest}' for x in found if x.fastest != DENSE)


def lines_of(measured: Sparse, batch: int) -> list[str]:
  """What was measured, as a table, and what is kept as it was."""
  found = measured.kernels
  products = (DENSE, *(form.value for form in Form))
  header = ['kernel', 'in x out', 'kept', *products, 'fastest']
  rows = [
    [
      x.name,
      'x'.join(map(str, x.shape)),
      f'{x.kept:.3f}',
      *(brief(x.seconds[k]) if k in x.seconds else '' for k in products),
      x.fastest,
    ]
    for x in found
  ]
  slower = [x for x in found if x.fastest == DENSE]
  told = [f'products of {batch:,} examples:', *markdown_table(header, rows)]
  if slower:
    told.append(
      f'{len(slower)} of {len(found)} are faster with their zeros, and are '
      f'multiplied whole'
    )
  if len(slower) < len(found):
    told.append(
      f'the model takes {brief(measured.packed)} with the others packed, '
      f'{brief(measured.whole)} with all whole: they '
      f'{"are packed" if measured.kept else "stay whole"}'
    )
  return told
