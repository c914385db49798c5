"""Independent tables: S nodes share the layers, each has tables of its own.

Each node trains its tables on its own part of every batch; only the gradients
of the layers are summed over all nodes ("Distributed DLRM"). This file has
what such tables need beside the step: averages over the nodes, and measures
of how far the nodes' tables are apart.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlrm_jax.embedding.collection import EmbeddingCollection, Tables
from dlrm_jax.embedding.layout import StackKind
from dlrm_jax.rows import Pytree
from dlrm_jax.training.state import Task, TrainState, shardings


def _own(collection: EmbeddingCollection) -> list[str]:
  """Names of the stacks of which every node has its own copy."""
  stacks = collection.layout.stacks.items()
  return [name for name, stack in stacks if stack.kind is StackKind.INDEPENDENT]


def node_count(task: Task) -> int:
  """Number of nodes that have tables of their own; 0: all are shared."""
  return task.network.nodes


def _copies(
  collection: EmbeddingCollection, tables: Tables, stack: str
) -> jax.Array:
  """f32[S, P, D], the stack of each node."""
  about = collection.layout.stacks[stack]
  values = about.storage.values(tables[stack], about.dim)
  return values.reshape(about.shards, about.shard_rows, about.dim)


def _averaged(collection: EmbeddingCollection, tables: Tables) -> Tables:
  def mean(stack: str) -> Pytree:
    copies = _copies(collection, tables, stack)
    same = jnp.broadcast_to(jnp.mean(copies, 0, keepdims=True), copies.shape)
    storage = collection.layout.stacks[stack].storage
    return storage.pack(storage.encode(same, None))

  return tables | {stack: mean(stack) for stack in _own(collection)}


def compiled_average(
  task: Task, *, keep: bool
) -> Callable[[TrainState], TrainState]:
  """Replaces the tables of every node by the mean over all nodes.

  Optimizer states are not averaged: each node goes on with its own.

  Args:
    task: what is trained.
    keep: whether the given tables are still needed; else they are donated.
  """
  mean = jax.jit(
    functools.partial(_averaged, task.collection),
    out_shardings=shardings(task).tables,
    donate_argnums=() if keep else 0,
  )
  return lambda state: dataclasses.replace(state, tables=mean(state.tables))


def divergence(task: Task, state: TrainState) -> dict[str, float]:
  """How far the copies of each independent table are apart.

  The root mean square distance of the nodes to their mean, divided by the
  norm of the mean: 0 where all are equal.
  """
  collection = task.collection

  def squares(tables: Tables) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for stack in _own(collection):
      copies = _copies(collection, tables, stack)
      mean = jnp.mean(copies, 0)
      apart = jnp.sum(jnp.mean(jnp.square(copies - mean[None]), 0), -1)
      size = jnp.sum(jnp.square(mean), -1)
      for name, block in collection.layout.in_stack(stack):
        rows = slice(block.offset, block.offset + collection.layout.rows[name])
        sums = jnp.sum(apart[rows]), jnp.sum(size[rows])
        before = found.get(name, (0.0, 0.0))
        found[name] = before[0] + sums[0], before[1] + sums[1]
    return found

  sums = jax.device_get(jax.jit(squares)(state.tables))
  return {
    name: float((apart / size) ** 0.5) if size else 0.0
    for name, (apart, size) in sums.items()
  }
