"""From gathered bags to one vector a feature: the dense side of encodings.

The only linen module that knows of tables: it takes each feature's bags out
of the stacks and lets its encoding combine them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding.collection import EmbeddingCollection, Vectors


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

  def __call__(self, dense: jax.Array, vectors: Vectors) -> jax.Array:
    """Logits f32[B] of gathered bags, f32[B, G, D] for each stack."""
    if self.scale is not None:
      mean, deviation = (np.array([x], np.float32) for x in self.scale)
      dense = (dense - mean) / np.where(deviation > 0, deviation, 1)
    return self.model(dense, encode(self.collection, vectors))


def encode(collection: EmbeddingCollection, vectors: Vectors) -> jax.Array:
  """Bags f32[B, G, D] for each stack -> f32[B, F, D], features in order."""
  blocks: dict[tuple[int, int], dict[int, jax.Array]] = {}
  for stack, places in collection.places.items():
    # A split, not slices: its transpose is one concatenation.
    bags = jnp.split(vectors[stack], len(places), axis=1)
    for place, bag in zip(places, bags, strict=True):
      blocks.setdefault((place.feature, place.part), {})[place.block] = bag

  def part(feature: int, number: int) -> jax.Array:
    found = blocks[feature, number]
    if len(found) == 1:
      return found[0]
    return jnp.concatenate([found[j] for j in sorted(found)], -1)

  return jnp.concatenate(
    [
      feature.encoding.combine(
        tuple(part(i, j) for j in range(len(feature.encoding.tables)))
      )
      for i, feature in enumerate(collection.features)
    ],
    1,
  )
