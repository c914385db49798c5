"""From gathered bags to one vector a feature: the dense side of encodings.

`encode` is called within a linen module, as some encodings have layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection, Vectors
from dlrm_jax.embedding.features import columns_of, weights_of


def encode(
  collection: EmbeddingCollection, vectors: Vectors, inputs: Inputs
) -> dict[str, jax.Array]:
  """Combines the bags of each feature to its vector.

  Args:
    collection: says which bags belong to which feature.
    vectors: the gathered bags, f32[B, G, D] for each stack.
    inputs: the ids, for encodings whose layers depend on them, and their
      weights, for encodings that pool after they combine.

  Returns:
    The vectors of each role, f32[B, features, width], in the order of the
    features.
  """
  features, parts = collection.features, _parts(collection, vectors)
  columns = columns_of(features, inputs.ids)
  weights = weights_of(features, columns, inputs.id_weights)
  encoded: list[Any] = [None] * len(features)
  for kind in dict.fromkeys(feature.encoding.alike for feature in features):
    alike = [i for i, f in enumerate(features) if f.encoding.alike == kind]
    encoding = features[alike[0]].encoding
    counts = [features[i].bags.count for i in alike]
    combined = encoding.combine(
      tuple(
        _side_by_side([parts[i][j] for i in alike])
        for j in range(len(encoding.tables))
      ),
      _side_by_side([columns[i] for i in alike]),
    )
    for i, x in zip(alike, _split(combined, counts), strict=True):
      encoded[i] = x if encoding.pools_first else _pooled(x, weights[i])
  roles = dict.fromkeys(feature.role for feature in features)
  return {
    role: jnp.concatenate(
      [x for x, f in zip(encoded, features, strict=True) if f.role == role], 1
    )
    for role in roles
  }


def _parts(
  collection: EmbeddingCollection, vectors: Vectors
) -> list[tuple[jax.Array, ...]]:
  """For each feature the vectors of its parts, f32[B, bags, d] each."""
  blocks: dict[tuple[int, int], dict[int, jax.Array]] = {}
  for stack, places in collection.places.items():
    pieces = _split(vectors[stack], [place.bags.count for place in places])
    for place, bags in zip(places, pieces, strict=True):
      blocks.setdefault((place.feature, place.part), {})[place.block] = bags
  return [
    tuple(
      _side_by_side([x for _, x in sorted(blocks[i, j].items())], -1)
      for j in range(len(feature.encoding.tables))
    )
    for i, feature in enumerate(collection.features)
  ]


def _split(x: jax.Array, counts: list[int]) -> list[jax.Array]:
  """Splits axis 1 into pieces of these sizes."""
  # A split, not slices: its transpose is one concatenation.
  return jnp.split(x, np.cumsum(counts)[:-1].tolist(), axis=1)


def _side_by_side(pieces: Sequence[jax.Array], axis: int = 1) -> jax.Array:
  return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis)


def _pooled(vectors: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Sums the vectors of ids, f32[B, L, D] -> f32[B, 1, D]."""
  if weights is not None:
    vectors = vectors * weights[..., None]
  return jnp.sum(vectors, 1, keepdims=True)
