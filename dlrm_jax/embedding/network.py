"""What scores: tables, encodings and a model, from inputs to logits.

A network is everything static that scoring needs. Its arrays, parameters and
tables, are arguments: the network of a training step and that of a served
model are the same object.

A model is a linen module that never sees ids, tables or the config:

    model(dense f32[B, N], {role: f32[B, features, width]}, train) -> f32[B, T]
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection, Tables, Vectors
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.features import column_hotness, shapes_of_roles
from dlrm_jax.models.shapes import Shapes
from dlrm_jax.rows import Pytree


class _Recommender(nn.Module):
  """The layers of a network: those of its encodings, then the model."""

  collection: EmbeddingCollection
  model: nn.Module
  scale: tuple[tuple[float, ...], tuple[float, ...]] | None

  @nn.compact
  def __call__(
    self, inputs: Inputs, vectors: Vectors, train: bool
  ) -> jax.Array:
    dense = inputs.dense
    if self.scale is not None:
      mean, deviation = (np.array([x], np.float32) for x in self.scale)
      dense = (dense - mean) / np.where(deviation > 0, deviation, 1)
    encoded = encode(self.collection, vectors, inputs)
    return self.model(dense, encoded, train)


@dataclasses.dataclass(frozen=True)
class Network:
  """The static side of scoring.

  Attributes:
    collection: the features and their tables.
    model: the layers over dense features and vectors.
    dense_features: N.
    scale: mean and standard deviation of the dense features, N numbers each,
      which bring them to 0 and 1 before the model; None: they stay as they
      are.
  """

  collection: EmbeddingCollection
  model: nn.Module
  dense_features: int
  scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None

  @property
  def ids(self) -> int:
    """H, the number of ids an example."""
    return sum(column_hotness(self.collection.features).values())

  @property
  def shapes(self) -> Shapes:
    """Shapes of the inputs of the model."""
    roles = shapes_of_roles(self.collection.features)
    return Shapes(self.dense_features, roles)

  @property
  def _module(self) -> _Recommender:
    return _Recommender(self.collection, self.model, self.scale)

  def init(self, key: jax.Array) -> Pytree:
    """First parameters of all layers; tables are made by the collection."""
    inputs = Inputs(
      dense=jnp.zeros((1, self.dense_features)),
      ids=jnp.full((1, self.ids), PAD, jnp.int32),
    )
    vectors = self.collection.empty_vectors()
    return self._module.init(key, inputs, vectors, False).get('params', {})

  def apply(
    self, params: Pytree, inputs: Inputs, vectors: Vectors, *, train: bool
  ) -> jax.Array:
    """Logits f32[B, T] from vectors that are gathered already.

    Args:
      params: parameters of the layers.
      inputs: a batch.
      vectors: its bags, f32[B, G, D] for each stack.
      train: whether the layers act as in training.
    """
    logits: Any = self._module.apply({'params': params}, inputs, vectors, train)
    return logits

  def outputs(
    self,
    params: Pytree,
    tables: Tables,
    inputs: Inputs,
    node: jax.Array | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of a batch; everything is read only.

    Args:
      params: parameters of the layers.
      tables: all stacks.
      inputs: a batch.
      node: i32[], the node whose copies of independent tables score; None:
        each node's copies score its own part of the batch.
    """
    rows = self.collection.rows(inputs.ids, inputs.id_weights, node)
    vectors = self.collection.lookup(tables, rows, node is not None)
    return self.apply(params, inputs, vectors, train=False)
