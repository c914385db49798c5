"""One training step: rows, vectors, gradients, and the two updates.

    rows    = collection.rows(inputs.ids)          # integers
    vectors = collection.lookup(tables, rows)      # the one read
    loss, grads, vector_grads = gradients(params, batch, vectors)
    params  = params + tx(grads)
    tables  = collection.update(table_tx, ..., rows, vector_grads)

The gathered vectors are an argument of the loss, so the gradient of a table
never exists: only those of the rows that the batch reads.
"""

import functools

import jax
import optax

from dlrm_jax.batch import Batch
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
    metrics, grads, vector_grads = gradients(task, state.params, batch, vectors)
  with jax.named_scope('update'):
    updates, opt_state = task.tx.update(grads, state.opt_state, state.params)
    tables, table_state = task.collection.update(
      task.table_tx,
      state.tables,
      state.table_state,
      rows,
      vector_grads,
      key=state.step,
    )
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      tables=tables,
      table_state=table_state,
    )
  return new_state, metrics


def compiled_step(task: Task) -> jax.stages.Wrapped:
  """`train_step` compiled for the mesh in use; it writes the state in place."""
  return jax.jit(
    functools.partial(train_step, task),
    donate_argnums=0,
    out_shardings=(shardings(task), None),
  )
