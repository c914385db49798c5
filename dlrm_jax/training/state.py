"""What is trained, and its state: arrays only, so the state is the checkpoint.

A `Task` is everything static of a training run; a `TrainState` everything
that changes. `create_state` is the first state.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlrm_jax.batch import PAD, Batch
from dlrm_jax.embedding.collection import EmbeddingCollection, Tables
from dlrm_jax.embedding.encoder import Recommender
from dlrm_jax.optim.rowwise import has_rows, with_counters
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import COPIED, sharding_of

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits f32[B], labels f32[B]) -> losses f32[B]."""


@dataclasses.dataclass(frozen=True)
class Task:
  """The static side of training.

  Attributes:
    collection: the tables.
    model: (dense f32[B, N], vectors f32[B, F, D]) -> logits f32[B].
    dense_features: N.
    scale: standardises dense features, see `Recommender`.
    loss: per example, from logits.
    tx: moves the parameters of the model.
    table_tx: moves the tables: a `rowwise` transform.
    micro_batch: examples that a device computes at a time; 0: whatever suits
      the backend.
  """

  collection: EmbeddingCollection
  model: nn.Module
  dense_features: int
  loss: Loss
  tx: optax.GradientTransformation
  table_tx: optax.GradientTransformation
  scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  micro_batch: int = 0

  @property
  def recommender(self) -> Recommender:
    """The model behind its embeddings."""
    return Recommender(self.collection, self.model, self.scale)


@flax.struct.dataclass
class TrainState:
  """Everything that changes, and nothing else.

  Attributes:
    step: i32[], updates made.
    params: of the recommender.
    opt_state: of `Task.tx`.
    tables: f32[R, D], or packed, for each stack.
    table_state: of `Task.table_tx`; rows on axis 0.
  """

  step: jax.Array
  params: Pytree
  opt_state: Pytree
  tables: Tables
  table_state: Pytree


def first_params(task: Task, key: jax.Array) -> Pytree:
  """Parameters of the layers: of the model, and of encodings that have any."""
  hotness = sum(feature.hotness for feature in task.collection.features)
  batch = Batch(
    dense=jnp.zeros((1, task.dense_features)),
    ids=jnp.full((1, hotness), PAD, jnp.int32),
    labels=jnp.zeros(1),
    weights=jnp.zeros(1),
  )
  vectors = task.collection.empty_vectors()
  return task.recommender.init(key, batch, vectors)['params']


def abstract_params(task: Task) -> Pytree:
  """Shapes of the parameters of the layers; no device is touched."""
  return jax.eval_shape(lambda: first_params(task, jax.random.key(0)))


def create_state(task: Task, key: jax.Array) -> TrainState:
  """The state before the first step; `new_state` makes it on the devices."""
  table_key, model_key = jax.random.split(key)
  tables = task.collection.init(table_key)
  params = first_params(task, model_key)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=task.tx.init(params),
    tables=tables,
    table_state=task.collection.init_state(task.table_tx, tables),
  )


def fresh_tables(task: Task, state: TrainState, key: jax.Array) -> TrainState:
  """The state with new tables, whose optimizer knows nothing of the old ones.

  Counters go on, and so does the schedule of the learning rate. The arrays of
  the old tables are deleted before the new ones are made.
  """
  tx = task.table_tx

  def delete(is_rows: bool, x: jax.Array) -> None:
    if is_rows:
      x.delete()

  jax.tree.map(delete, has_rows(tx, state.table_state), state.table_state)
  jax.tree.map(lambda x: x.delete(), state.tables)
  where = shardings(task)
  tables = jax.jit(task.collection.init, out_shardings=where.tables)(key)
  init_state = functools.partial(task.collection.init_state, tx)
  made = jax.jit(init_state, out_shardings=where.table_state)(tables)
  table_state = with_counters(tx, made, state.table_state)
  return dataclasses.replace(state, tables=tables, table_state=table_state)


def abstract_state(task: Task) -> TrainState:
  """Shapes, dtypes and shardings of the state; nothing is computed.

  The shardings are those of the mesh in use: a checkpoint remembers the
  devices that it was written on, which may not be here.
  """
  found: list[TrainState] = []

  # Traced as a whole: no device has to be there.
  def create() -> TrainState:
    state = create_state(task, jax.random.key(0))
    state_specs = task.collection.state_specs(task.table_tx, state.table_state)
    found.append(
      dataclasses.replace(
        jax.tree.map(lambda _: COPIED, state),
        tables=task.collection.specs,
        table_state=state_specs,
      )
    )
    return state

  shapes = jax.eval_shape(create)
  specs = found[0]
  return jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding_of(spec)
    ),
    shapes,
    specs,
  )


def shardings(task: Task) -> TrainState:
  """Where every array of the state lives, on the mesh in use."""
  return jax.tree.map(lambda x: x.sharding, abstract_state(task))


def new_state(task: Task, key: jax.Array) -> TrainState:
  """The state before the first step, every device making its own part."""
  make = jax.jit(
    functools.partial(create_state, task), out_shardings=shardings(task)
  )
  return make(key)
