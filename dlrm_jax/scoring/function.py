"""The function that scores: arrays of inputs -> probabilities."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jax.sharding import Mesh

from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection, Tables
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement, Table

Outputs = Callable[[jax.Array], jax.Array]
"""Logits f32[B, T] -> what is told of the examples, such as probabilities."""


class LoadedNetwork(NamedTuple):
  """A network with its arrays.

  Attributes:
    network: the network.
    layers: its layers.
    tables: its tables.
    mesh: the devices that they are on.
  """

  network: Network
  layers: Layers
  tables: Tables
  mesh: Mesh


def flat(network: Network) -> Network:
  """The same network for one device: the rows of a table are side by side.

  Independent tables keep their copies, one for each node. What scores has no
  states, so how they were kept tells no stacks apart.
  """
  shared = Placement(replicated=True) if network.nodes else Placement()

  def placed(table: Table) -> Table:
    own = table.placement.independent
    placement = Placement(independent=True) if own else shared
    return dataclasses.replace(table, placement=placement, state=FLOAT32)

  features = tuple(
    dataclasses.replace(f, encoding=f.encoding.placed(placed))
    for f in network.collection.features
  )
  shards = network.nodes or 1
  collection = EmbeddingCollection(features, shards)
  return dataclasses.replace(network, collection=collection)


def logits(
  network: Network, layers: Layers, tables: Tables, inputs: Inputs
) -> jax.Array:
  """Logits f32[B, T]; of independent nodes that of their mean probability."""
  if not network.nodes:
    return network.outputs(layers, tables, inputs)
  of_nodes = lax.map(
    lambda node: network.outputs(layers, tables, inputs, node),
    jnp.arange(network.nodes, dtype=jnp.int32),
  )
  return of_mean_probability(jnp.moveaxis(of_nodes, 0, -1))


def of_mean_probability(of_nodes: jax.Array) -> jax.Array:
  """Logits of nodes, f32[B, T, S] -> that of their mean probability."""
  clicks = logsumexp(jax.nn.log_sigmoid(of_nodes), axis=-1)
  return clicks - logsumexp(jax.nn.log_sigmoid(-of_nodes), axis=-1)


def probabilities(
  network: Network, layers: Layers, tables: Tables, inputs: Inputs
) -> jax.Array:
  """Probabilities f32[B, T]."""
  return jax.nn.sigmoid(logits(network, layers, tables, inputs))


def compiled_score(
  network: Network, outputs: Outputs = jax.nn.sigmoid
) -> Callable[[Layers, Tables, Inputs], jax.Array]:
  """The outputs of a network, compiled for the mesh in use."""
  return jax.jit(
    lambda layers, tables, inputs: outputs(
      logits(network, layers, tables, inputs)
    ),
    out_shardings=sharding.sharding_of(sharding.SPLIT),
  )
