"""Products of pruned kernels, beside whole ones and those that JAX has.

python -m benchmarks.sparse_layers [--kernels 367x512 ...]

Kernels have normal weights, of which the least blocks are gone. Beside the time
of the whole product stands how many times faster others are: the forms of
`dlrm_jax.models.sparse`; `blocks`, a batched product of the blocks that are
left, in XLA; and `BCSR` of `jax.experimental.sparse`.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import sparse

from benchmarks import machine
from dlrm_jax.models.sparse import Form
from dlrm_jax.optim.block import Block, read_block
from dlrm_jax.optim.pruning import Pruning, pruned
from dlrm_jax.quantize.sparse import DENSE, Product, products_of, seconds_of

_KERNELS = '13x512', '367x512', '512x256', '256x64'
_BLOCKS = '1x1', '8x1', '1x16', '16x16', '32x32', '16x512'
_SPARSITIES = 0.5, 0.8, 0.95
_SIZES = 1, 64, 1024
_OTHERS = *(form.value for form in Form), 'blocks', 'BCSR'


def in_blocks(kernel: np.ndarray, block: Block) -> Product:
  """A batched product: each column of blocks has those that are not zeros.

  Columns with fewer blocks than the one with the most get blocks of zeros.
  """
  rows, columns = map(min, block, kernel.shape)
  inputs, outputs = kernel.shape
  padded = np.pad(kernel, [(0, -inputs % rows), (0, -outputs % columns)])
  blocks = padded.reshape(-1, rows, padded.shape[1] // columns, columns)
  live = (blocks != 0).any((1, 3))
  most = max(1, int(live.sum(0).max()))
  places = np.argsort(~live, 0, kind='stable')[:most].T
  weights = blocks.transpose(0, 2, 1, 3)[
    places, np.arange(len(places))[:, None]
  ]
  weights = weights.reshape(len(places), most * rows, columns)

  def call(x: jax.Array, weights: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, 0), (0, -inputs % rows)])
    x = x.reshape(len(x), -1, rows)[:, places.ravel()]
    x = x.reshape(len(x), len(places), most * rows)
    y = lax.dot_general(x, weights, (((2,), (1,)), ((1,), (0,))))
    return y.transpose(1, 0, 2).reshape(len(x), -1)[:, :outputs]

  return Product(call, weights)


def as_bcsr(kernel: np.ndarray) -> Product:
  """The product of JAX's compressed rows, those of outputs."""
  made = sparse.BCSR.fromdense(jnp.asarray(kernel.T))
  inner, starts = np.asarray(made.indices), np.asarray(made.indptr)

  def call(x: jax.Array, weights: jax.Array) -> jax.Array:
    arrays = weights, jnp.asarray(inner), jnp.asarray(starts)
    return (sparse.BCSR(arrays, shape=made.shape) @ x.T).T

  return Product(call, np.asarray(made.data))


def rows(kernel: Block, block: Block, sparsity: float) -> list[dict[str, Any]]:
  """A line for each size of batch, of a kernel that is pruned in one way."""
  weights = np.random.default_rng(0).normal(size=kernel)
  weights = jnp.asarray(weights, jnp.float32)
  zeroed = np.asarray(pruned(weights, Pruning(sparsity, block)))
  products = products_of(zeroed, jnp.float32)
  products |= {'blocks': in_blocks(zeroed, block), 'BCSR': as_bcsr(zeroed)}
  lines = []
  for size in _SIZES:
    seconds = seconds_of(products, size)
    whole = seconds.pop(DENSE)
    lines.append(
      {
        'kernel': str(kernel),
        'block': str(block),
        'sparsity': sparsity,
        'examples': size,
        'whole, us': 1e6 * whole,
        **{
          name: whole / seconds[name] if name in seconds else None
          for name in _OTHERS
        },
      }
    )
  return lines


def main() -> None:
  """Measures all of them and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kernels', nargs='+', default=_KERNELS)
  kernels = parser.parse_args().kernels
  lines = [
    line
    for kernel in kernels
    for block in _BLOCKS
    for sparsity in _SPARSITIES
    for line in rows(
      read_block('--kernels', kernel), read_block('', block), sparsity
    )
  ]
  machine.show('sparse_layers', lines)


if __name__ == '__main__':
  main()
