"""One training step: rows, vectors, gradients, and the two updates.

    rows    = collection.rows(inputs.ids)          # integers
    vectors = collection.lookup(tables, rows)      # the one read
    found   = gradients(layers, batch, vectors)
    tables  = collection.update(table_tx, ..., rows, found.vectors)
    params  = params + tx(found.params)

The gathered vectors are an argument of the loss, so the gradient of a table
never exists: only those of the rows that the batch reads. Small tables may be
updated densely instead, by gradients of their own size.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from dlrm_jax.batch import Batch
from dlrm_jax.optim.clipping import Clip
from dlrm_jax.rows import mix32
from dlrm_jax.training.gradients import StepMetrics, gradients
from dlrm_jax.training.state import Task, TrainState, shardings


def train_step(
  task: Task, state: TrainState, batch: Batch
) -> tuple[TrainState, StepMetrics]:
  """Updates layers and tables once; `compiled_step` compiles it."""
  inputs = batch.inputs
  with jax.named_scope('lookup'):
    rows = task.collection.rows(inputs.ids, inputs.id_weights)
    vectors = task.collection.lookup(state.tables, rows)
  with jax.named_scope('layers'):
    own = mix32(jnp.uint32(task.seed % 2**32))
    seed = mix32(state.step.astype(jnp.uint32) ^ own)
    found = gradients(task, state.layers, batch, vectors, seed)
  with jax.named_scope('update'):
    grads, clip = found.params, None
    if task.clip is not None:
      clip = Clip(task.clip, optax.tree.norm(grads, squared=True))
    tables, table_state, scale = task.collection.update(
      task.table_tx,
      state.tables,
      state.table_state,
      rows,
      found.vectors,
      key=seed,
      clip=clip,
      factor=state.factor,
    )
    if clip is not None:
      grads = optax.tree.scale(scale, grads)
    updates, opt_state = task.tx.update(grads, state.opt_state, state.params)
    if state.factor is not None:
      updates = optax.tree.scale(state.factor, updates)
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      statistics=found.statistics,
      opt_state=opt_state,
      tables=tables,
      table_state=table_state,
      factor=state.factor,
    )
  return new_state, found.metrics


def compiled_step(task: Task) -> jax.stages.Wrapped:
  """`train_step` compiled for the mesh in use; it writes the state in place."""
  return jax.jit(
    functools.partial(train_step, task),
    donate_argnums=0,
    out_shardings=(shardings(task), None),
  )
