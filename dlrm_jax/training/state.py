"""What is trained, and its state: arrays only, so the state is the checkpoint.

A `Task` is everything static of a training run: a network, which scores, and
what trains it. A `TrainState` is everything that changes; `create_state`
gives the first one.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlrm_jax.embedding.collection import EmbeddingCollection, Tables
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.optim.plateau import Plateau
from dlrm_jax.optim.rowwise import RowTransform, has_rows, with_counters
from dlrm_jax.rows import Pytree
from dlrm_jax.sharding import COPIED, on_cpu, sharding_of
from dlrm_jax.training.heads import Head


@dataclasses.dataclass(frozen=True)
class Task:
  """The static side of training.

  Attributes:
    network: what is trained.
    heads: its tasks, one a column of its logits.
    tx: the optimizer of the parameters of all layers.
    table_tx: the optimizer of the tables: a `rowwise` transform.
    micro_batch: number of examples that a device computes at a time; None:
      a number that suits the backend.
    clip: the largest norm of the gradients of layers and tables together;
      None: they are not clipped.
    bag_l2: the loss has half of it times the mean over examples of the sum of
      squares of their gathered bags.
    plateau: how the learning rates fall where validation does not improve;
      None: they do not.
    seed: of what layers and storages draw at random in a step.
  """

  network: Network
  heads: tuple[Head, ...]
  tx: optax.GradientTransformation
  table_tx: RowTransform
  micro_batch: int | None = None
  clip: float | None = None
  bag_l2: float = 0.0
  plateau: Plateau | None = None
  seed: int = 0

  @property
  def piece(self) -> int | None:
    """As `micro_batch`; batch normalisation takes the whole part at once."""
    return sys.maxsize if self.network.normalises_batches else self.micro_batch

  @property
  def collection(self) -> EmbeddingCollection:
    """The tables of the network."""
    return self.network.collection


@flax.struct.dataclass
class TrainState:
  """Everything that changes in training, and nothing else.

  Attributes:
    step: i32[], number of updates so far.
    params: parameters of the layers of the network.
    opt_state: state of `Task.tx`.
    tables: f32[R, D], or packed, for each stack.
    table_state: state of `Task.table_tx`; rows on axis 0.
    statistics: running means and variances of batch normalisation.
    factor: f32[], what `Task.plateau` has multiplied the learning rates by;
      None where they do not fall.
  """

  step: jax.Array
  params: Pytree
  opt_state: Pytree
  tables: Tables
  table_state: Pytree
  statistics: Pytree = dataclasses.field(default_factory=dict)
  factor: jax.Array | None = None

  @property
  def layers(self) -> Layers:
    """The arrays of the layers."""
    return Layers(self.params, self.statistics)


def abstract_params(task: Task) -> Pytree:
  """Shapes of the parameters of the layers; no device is touched."""
  return jax.eval_shape(lambda: task.network.init(jax.random.key(0))).params


def _of_tables(task: Task, key: jax.Array) -> dict[str, Pytree]:
  tables = task.collection.init(key)
  state = task.collection.init_state(task.table_tx, tables)
  return {'tables': tables, 'table_state': state}


def _of_layers(task: Task, key: jax.Array) -> dict[str, Pytree]:
  layers = task.network.init(key)
  return {
    'step': jnp.zeros((), jnp.int32),
    'params': layers.params,
    'opt_state': task.tx.init(layers.params),
    'statistics': layers.statistics,
    'factor': None if task.plateau is None else jnp.ones(()),
  }


def create_state(task: Task, key: jax.Array) -> TrainState:
  """The state before the first step; `new_state` puts it on the devices."""
  of_tables, of_layers = jax.random.split(key)
  return TrainState(
    **_of_tables(task, of_tables), **_of_layers(task, of_layers)
  )


def fresh_tables(task: Task, state: TrainState, key: jax.Array) -> TrainState:
  """The state with new tables and a new state of their optimizer.

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
  devices that it was written on, which this machine may not have.
  """
  specs: list[TrainState] = []

  # Tracing the whole function needs no device.
  def create() -> TrainState:
    state = create_state(task, jax.random.key(0))
    state_specs = task.collection.state_specs(task.table_tx, state.table_state)
    specs.append(
      dataclasses.replace(
        jax.tree.map(lambda _: COPIED, state),
        tables=task.collection.specs,
        table_state=state_specs,
      )
    )
    return state

  shapes = jax.eval_shape(create)
  return jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding_of(spec)
    ),
    shapes,
    specs[0],
  )


def shardings(task: Task) -> TrainState:
  """Where every array of the state lives, on the mesh in use."""
  return jax.tree.map(lambda x: x.sharding, abstract_state(task))


def new_state(task: Task, key: jax.Array) -> TrainState:
  """The state before the first step, every device making its own part."""
  where = shardings(task)

  def made(
    part: Callable[[Task, jax.Array], dict[str, Pytree]],
    number: int,
    fields: Collection[str],
    **options: Any,
  ) -> dict[str, Pytree]:
    def create(key: jax.Array) -> dict[str, Pytree]:
      return part(task, jax.random.split(key)[number])

    places = {name: getattr(where, name) for name in fields}
    return jax.jit(create, out_shardings=places, **options)(key)

  # On a CPU, the draws of the parameters take longer to optimise than to run.
  quick = {'xla_backend_optimization_level': 0} if on_cpu() else None
  rows = {'tables', 'table_state'}
  others = {field.name for field in dataclasses.fields(TrainState)} - rows
  return TrainState(
    **made(_of_tables, 0, rows),
    **made(_of_layers, 1, others, compiler_options=quick),
  )
