"""Examples as rows of one matrix of 32-bit words, to be moved as they are.

A row is label, dense features, ids, and where the set has them weights of the
ids and of the example. Floats keep their bits.
"""

import dataclasses

import numpy as np

from dlrm_jax.data.schema import Block, Schema


@dataclasses.dataclass(frozen=True)
class Fields:
  """What an example of a set has.

  Attributes:
    dense: number of dense features, N.
    hotness: ids an example, H.
    id_weights: whether ids have weights.
    weights: whether examples have weights.
  """

  dense: int
  hotness: int
  id_weights: bool = False
  weights: bool = False

  @classmethod
  def of(
    cls, schema: Schema, id_weights: bool = False, weights: bool = False
  ) -> 'Fields':
    """The fields of a set with these columns."""
    return cls(len(schema.dense), schema.hotness, id_weights, weights)

  @property
  def width(self) -> int:
    """Words an example, W."""
    ids = self.hotness * (2 if self.id_weights else 1)
    return 1 + self.dense + ids + self.weights


def pack(fields: Fields, block: Block) -> np.ndarray:
  """Examples, n of them -> i32[n, W]."""
  packed = np.empty((len(block.labels), fields.width), np.int32)
  floats = packed.view(np.float32)
  floats[:, 0] = block.labels
  end = 1 + fields.dense
  floats[:, 1:end] = block.dense
  packed[:, end : end + fields.hotness] = block.ids
  end += fields.hotness
  if fields.id_weights:
    floats[:, end : end + fields.hotness] = block.id_weights
  if fields.weights:
    floats[:, -1] = block.weights
  return packed


def unpack(fields: Fields, packed: np.ndarray) -> Block:
  """The inverse of `pack`: i32[n, W] -> n examples."""
  floats = packed.view(np.float32)
  start, end = 1 + fields.dense, 1 + fields.dense + fields.hotness
  weights = floats[:, end : end + fields.hotness]
  return Block(
    dense=np.ascontiguousarray(floats[:, 1:start]),
    ids=np.ascontiguousarray(packed[:, start:end]),
    labels=floats[:, 0].copy(),
    id_weights=np.ascontiguousarray(weights) if fields.id_weights else None,
    weights=floats[:, -1].copy() if fields.weights else None,
  )
