"""From gathered bags to one vector a feature: the dense side of encodings.

The only linen module that knows of tables: it takes each feature's bags out
of the stacks and lets its encoding combine them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.embedding.collection import EmbeddingCollection, Vectors


class Recommender(nn.Module):
  """A model behind its embeddings.

  Attributes:
    collection: says which bag is whose.
    model: (dense f32[B, N], vectors f32[B, F, D]) -> logits f32[B].
  """

  collection: EmbeddingCollection
  model: nn.Module

  def __call__(self, dense: jax.Array, vectors: Vectors) -> jax.Array:
    """Logits f32[B] of gathered bags, f32[B, G, D] for each stack."""
    return self.model(dense, encode(self.collection, vectors))


def encode(collection: EmbeddingCollection, vectors: Vectors) -> jax.Array:
  """Bags f32[B, G, D] for each stack -> f32[B, F, D], features in order."""
  parts: dict[tuple[int, int], jax.Array] = {}
  for stack, places in collection.places.items():
    # A split, not slices: its transpose is one concatenation.
    bags = jnp.split(vectors[stack], len(places), axis=1)
    for place, bag in zip(places, bags, strict=True):
      parts[place.feature, place.part] = bag
  return jnp.concatenate(
    [
      feature.encoding.combine(
        tuple(parts[i, j] for j in range(len(feature.encoding.tables)))
      )
      for i, feature in enumerate(collection.features)
    ],
    1,
  )
