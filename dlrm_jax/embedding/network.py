"""What scores: tables, encodings and a model, from inputs to logits.

A network is everything static that scoring needs. Its arrays, parameters and
tables, are arguments: the network of a training step and that of a served
model are the same object.

A model is a linen module that never sees ids, tables or the config:

    model(dense f32[B, N], {role: f32[B, features, width]}, train) -> f32[B, T]

With `branches` there are K such models, each with tables of its own; the
score is the mean of their logits.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection, Tables, Vectors
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.features import column_hotness, shapes_of_roles
from dlrm_jax.embedding.layout import StackKind
from dlrm_jax.models.batch_norm import STATISTICS
from dlrm_jax.models.branches import Branches
from dlrm_jax.models.int8 import Int8
from dlrm_jax.models.mlp import Norm
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import Shapes
from dlrm_jax.rows import Pytree


class Layers(NamedTuple):
  """The arrays of the layers of a network.

  Attributes:
    params: what is trained.
    statistics: running means and variances of batch normalisation; empty where
      no layer has any.
  """

  params: Pytree
  statistics: Pytree


def _variables(layers: Layers) -> dict[str, Pytree]:
  return {'params': layers.params, STATISTICS: layers.statistics}


def _by_branch(logits: jax.Array) -> jax.Array:
  """Logits f32[B, T], or of branches f32[B, K, T], as f32[B, K, T]."""
  return logits[:, None] if logits.ndim == 2 else logits


def _mean(logits: jax.Array) -> jax.Array:
  """Logits f32[B, T], or the mean of those of branches, f32[B, K, T]."""
  return logits if logits.ndim == 2 else jnp.mean(logits, 1)


class _Recommender(nn.Module):
  """The layers of a network: those of its encodings, then the model."""

  collection: EmbeddingCollection
  model: nn.Module
  scale: tuple[tuple[float, ...], tuple[float, ...]] | None

  @nn.compact
  def __call__(
    self,
    inputs: Inputs,
    vectors: Vectors,
    train: Training | None,
    encoded_only: bool = False,
    encoded: Mapping[str, jax.Array] | None = None,
  ) -> Any:
    if encoded is None:
      encoded = encode(self.collection, vectors, inputs)
    if encoded_only:
      return encoded
    dense = inputs.dense
    if self.scale is not None:
      mean, deviation = (np.array([x], np.float32) for x in self.scale)
      dense = (dense - mean) / np.where(deviation > 0, deviation, 1)
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
  def branches(self) -> int:
    """K, the number of models whose logits are averaged."""
    return self.model.count if isinstance(self.model, Branches) else 1

  @property
  def nodes(self) -> int:
    """Number of nodes that have tables of their own; 0: all are shared."""
    layout = self.collection.layout
    kinds = {stack.kind for stack in layout.stacks.values()}
    return layout.shards if StackKind.INDEPENDENT in kinds else 0

  @property
  def normalises_batches(self) -> bool:
    """Whether a layer in training needs the whole batch at once."""
    return getattr(self._one_model, 'norm', None) is Norm.BATCH

  @property
  def of_codes(self) -> bool:
    """Whether its layers multiply codes of 8 bits."""
    return isinstance(getattr(self._one_model, 'operands', None), Int8)

  @property
  def _one_model(self) -> nn.Module:
    """The model, of branches that of each."""
    return self.model.model if isinstance(self.model, Branches) else self.model

  @property
  def _module(self) -> _Recommender:
    return _Recommender(self.collection, self.model, self.scale)

  def init(self, key: jax.Array) -> Layers:
    """The first arrays of all layers; tables are made by the collection."""
    inputs = Inputs(
      dense=jnp.zeros((1, self.dense_features)),
      ids=jnp.full((1, self.ids), PAD, jnp.int32),
    )
    vectors = self.collection.empty_vectors()
    made = self._module.init(key, inputs, vectors, None)
    return Layers(made.get('params', {}), made.get(STATISTICS, {}))

  def apply(
    self, layers: Layers, inputs: Inputs, vectors: Vectors
  ) -> jax.Array:
    """Logits f32[B, T] from vectors that are gathered already.

    Args:
      layers: parameters and statistics.
      inputs: a batch.
      vectors: its bags, f32[B, G, D] for each stack.
    """
    logits: Any = self._module.apply(_variables(layers), inputs, vectors, None)
    return _mean(logits)

  @staticmethod
  def layers_of_encodings(layers: Layers) -> Layers:
    """The layers that `encoded` needs: all but those of the model."""
    params = {k: x for k, x in layers.params.items() if k != 'model'}
    return Layers(params, {})

  def encoded(
    self, layers: Layers, tables: Tables, inputs: Inputs
  ) -> dict[str, jax.Array]:
    """The vectors that the model gets, f32[B, features, width] by role.

    Of independent tables they are those of node 0.
    """
    node = jnp.int32(0) if self.nodes else None
    rows = self.collection.rows(inputs.ids, inputs.id_weights, node)
    vectors = self.collection.lookup(tables, rows, node is not None)
    made: Any = self._module.apply(
      _variables(layers), inputs, vectors, None, encoded_only=True
    )
    return made

  def of_encoded(
    self, layers: Layers, inputs: Inputs, encoded: Mapping[str, jax.Array]
  ) -> jax.Array:
    """Logits f32[B, T] of the vectors that the model gets, as `encoded` has."""
    vectors = self.collection.empty_vectors()
    logits: Any = self._module.apply(
      _variables(layers), inputs, vectors, None, encoded=encoded
    )
    return _mean(logits)

  def apply_in_training(
    self, layers: Layers, inputs: Inputs, vectors: Vectors, train: Training
  ) -> tuple[jax.Array, Pytree]:
    """Logits of each branch f32[B, K, T], and statistics after this batch.

    Args:
      layers: parameters and statistics.
      inputs: a batch.
      vectors: its bags, f32[B, G, D] for each stack.
      train: what layers need that act otherwise in training.
    """
    made: Any = self._module.apply(
      _variables(layers), inputs, vectors, train, mutable=[STATISTICS]
    )
    logits, changed = made
    return _by_branch(logits), changed.get(STATISTICS, {})

  def outputs(
    self,
    layers: Layers,
    tables: Tables,
    inputs: Inputs,
    node: jax.Array | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of a batch, the mean over branches; see `by_branch`."""
    return _mean(self._logits(layers, tables, inputs, node))

  def by_branch(
    self,
    layers: Layers,
    tables: Tables,
    inputs: Inputs,
    node: jax.Array | None = None,
  ) -> jax.Array:
    """Logits f32[B, K, T] of each branch; everything is read only.

    Args:
      layers: parameters and statistics.
      tables: all stacks.
      inputs: a batch.
      node: i32[], the node whose copies of independent tables score; None:
        each node's copies score its own part of the batch.
    """
    return _by_branch(self._logits(layers, tables, inputs, node))

  def _logits(
    self,
    layers: Layers,
    tables: Tables,
    inputs: Inputs,
    node: jax.Array | None,
  ) -> jax.Array:
    """Logits f32[B, T], or of branches f32[B, K, T]."""
    rows = self.collection.rows(inputs.ids, inputs.id_weights, node)
    vectors = self.collection.lookup(tables, rows, node is not None)
    logits: Any = self._module.apply(_variables(layers), inputs, vectors, None)
    return logits
