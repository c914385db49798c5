"""The layers that a report measures, by what it calls them."""

from dlrm_jax.optim.block import Block
from dlrm_jax.optim.pruning import Pruning
from dlrm_jax.quantization.method import Method
from dlrm_jax.quantize.model import LayerChoice
from dlrm_jax.quantize.sparse import SparseChoice

_SPARSITIES = 0.5, 0.8, 0.9


def of_numbers() -> dict[str, LayerChoice]:
  """Whole layers, by what they multiply."""
  return {
    'float32': LayerChoice('float32'),
    'bfloat16': LayerChoice('bfloat16'),
    'int8': LayerChoice('int8'),
    **{
      f'int8, {method.value}': LayerChoice('int8', method) for method in Method
    },
  }


def sparse(block: Block, batch: int) -> dict[str, LayerChoice]:
  """Layers of float32, by how many blocks are gone.

  Args:
    block: size of the blocks.
    batch: number of examples of a call that they shall be fast for.
  """
  return {
    f'sparse {share:g}, {block}': LayerChoice(
      'float32', sparse=SparseChoice(Pruning(share, block), batch)
    )
    for share in _SPARSITIES
  }
