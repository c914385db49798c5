"""Examples as rows of one matrix of 32-bit words.

A row has the labels, dense features, ids, and where the set has them the
weights of the ids, the group and the weight of the example. Floats keep their
bits.
"""

import dataclasses

import numpy as np

from dlrm_jax.data.schema import Block, Schema


@dataclasses.dataclass(frozen=True)
class Fields:
  """The fields of an example of a set.

  Attributes:
    dense: N, the number of dense features.
    hotness: H, the number of ids.
    id_weights: whether ids have weights.
    weights: whether examples have weights.
    labels: T, the number of labels.
    group: whether examples have groups.
  """

  dense: int
  hotness: int
  id_weights: bool = False
  weights: bool = False
  labels: int = 1
  group: bool = False

  @classmethod
  def of(
    cls, schema: Schema, *, id_weights: bool = False, weights: bool = False
  ) -> 'Fields':
    """The fields of a set with these columns."""
    return cls(
      dense=len(schema.dense),
      hotness=schema.hotness,
      id_weights=id_weights,
      weights=weights,
      labels=len(schema.labels),
      group=schema.grouped,
    )

  @property
  def width(self) -> int:
    """W, the number of words an example."""
    ids = self.hotness * (2 if self.id_weights else 1)
    return self.labels + self.dense + ids + self.group + self.weights


def pack(fields: Fields, block: Block) -> np.ndarray:
  """Packs the n examples of a block into i32[n, W]."""
  packed = np.empty((len(block.labels), fields.width), np.int32)
  floats = packed.view(np.float32)
  floats[:, : fields.labels] = block.labels
  end = fields.labels + fields.dense
  floats[:, fields.labels : end] = block.dense
  packed[:, end : end + fields.hotness] = block.ids
  end += fields.hotness
  if fields.id_weights:
    floats[:, end : end + fields.hotness] = block.id_weights
    end += fields.hotness
  if block.group is not None:
    packed[:, end] = block.group
  if fields.weights:
    floats[:, -1] = block.weights
  return packed


def unpack(fields: Fields, packed: np.ndarray) -> Block:
  """The inverse of `pack`: i32[n, W] -> n examples."""
  floats = packed.view(np.float32)
  start = fields.labels + fields.dense
  end = start + fields.hotness
  weights = floats[:, end : end + fields.hotness]
  group = packed[:, fields.width - fields.weights - 1]
  return Block(
    dense=np.ascontiguousarray(floats[:, fields.labels : start]),
    ids=np.ascontiguousarray(packed[:, start:end]),
    labels=floats[:, : fields.labels].copy(),
    id_weights=np.ascontiguousarray(weights) if fields.id_weights else None,
    weights=floats[:, -1].copy() if fields.weights else None,
    group=group.copy() if fields.group else None,
  )
