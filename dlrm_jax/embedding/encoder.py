"""From gathered bags to one vector a feature: the dense side of encodings.

The only linen module that knows of tables: it takes each feature's bags out
of the stacks and lets its encoding combine them.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.embedding.collection import EmbeddingCollection, Vectors
from dlrm_jax.embedding.features import columns_of, weights_of


class Recommender(nn.Module):
  """A model behind its embeddings.

  Attributes:
    collection: says which bag is whose.
    model: (dense f32[B, N], vectors f32[B, F, D]) -> logits f32[B].
    scale: mean and standard deviation of the dense features, N numbers each,
      to bring them to 0 and 1 before the model; None: as they are.
  """

  collection: EmbeddingCollection
  model: nn.Module
  scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None

  @nn.compact
  def __call__(self, batch: Batch, vectors: Vectors) -> jax.Array:
    """Logits f32[B] of a batch and its bags, f32[B, G, D] for each stack."""
    dense = batch.dense
    if self.scale is not None:
      mean, deviation = (np.array([x], np.float32) for x in self.scale)
      dense = (dense - mean) / np.where(deviation > 0, deviation, 1)
    encoded = encode(self.collection, vectors, batch.ids, batch.id_weights)
    return self.model(dense, encoded)


def encode(
  collection: EmbeddingCollection,
  vectors: Vectors,
  ids: jax.Array,
  id_weights: jax.Array | None = None,
) -> jax.Array:
  """Bags f32[B, G, D] for each stack -> f32[B, F, D], features in order.

  Args:
    collection: says which bag is whose.
    vectors: gathered.
    ids: i32[B, H], for encodings whose layers depend on them.
    id_weights: f32[B, H] or None, for those that pool after they combine.
  """
  features, parts = collection.features, _parts(collection, vectors)
  columns = columns_of(features, ids)
  weights = weights_of(features, columns, id_weights)
  made: list[Any] = [None] * len(features)
  for kind in dict.fromkeys(feature.encoding.alike for feature in features):
    mine = [i for i, f in enumerate(features) if f.encoding.alike == kind]
    encoding = features[mine[0]].encoding
    counts = [features[i].bags.count for i in mine]
    combined = encoding.combine(
      tuple(
        _beside([parts[i][j] for i in mine])
        for j in range(len(encoding.tables))
      ),
      _beside([columns[i] for i in mine]),
    )
    for i, x in zip(mine, _cut(combined, counts), strict=True):
      made[i] = x if encoding.pools_first else _pooled(x, weights[i])
  return jnp.concatenate(made, 1)


def _parts(
  collection: EmbeddingCollection, vectors: Vectors
) -> list[tuple[jax.Array, ...]]:
  """For each feature the vectors of its parts, f32[B, bags, d] each."""
  blocks: dict[tuple[int, int], dict[int, jax.Array]] = {}
  for stack, places in collection.places.items():
    cut = _cut(vectors[stack], [place.bags.count for place in places])
    for place, bags in zip(places, cut, strict=True):
      blocks.setdefault((place.feature, place.part), {})[place.block] = bags
  return [
    tuple(
      _beside([x for _, x in sorted(blocks[i, j].items())], -1)
      for j in range(len(feature.encoding.tables))
    )
    for i, feature in enumerate(collection.features)
  ]


def _cut(x: jax.Array, counts: list[int]) -> list[jax.Array]:
  """Pieces of axis 1, of so many each."""
  # A split, not slices: its transpose is one concatenation.
  return jnp.split(x, np.cumsum(counts)[:-1].tolist(), axis=1)


def _beside(pieces: Sequence[jax.Array], axis: int = 1) -> jax.Array:
  return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis)


def _pooled(vectors: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Of ids f32[B, L, D], with weights f32[B, L] -> f32[B, 1, D]."""
  if weights is not None:
    vectors = vectors * weights[..., None]
  return jnp.sum(vectors, 1, keepdims=True)
