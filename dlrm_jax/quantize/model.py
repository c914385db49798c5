"""A trained model whose tables and layers have other numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlrm_jax import files
from dlrm_jax.batch import Batch
from dlrm_jax.build.chosen import ChosenRun
from dlrm_jax.build.network import sparse_forms
from dlrm_jax.build.storages import Choice, with_storages
from dlrm_jax.build.trained import Trained, trained
from dlrm_jax.build.written import write_workdir
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.quantization.layers import calibrate, quantize_layers
from dlrm_jax.quantization.method import Method
from dlrm_jax.quantization.sparse import Scored, specialised
from dlrm_jax.quantize.sparse import (
  Measured,
  SparseChoice,
  chosen_forms,
  measure,
  prune,
)
from dlrm_jax.run import workdir
from dlrm_jax.training.state import (
  TrainState,
  abstract_params,
  abstract_state,
)


class Model(NamedTuple):
  """A run and its state for scoring.

  Attributes:
    run: the run.
    state: the state, without those of the optimizers.
    kernels: what was measured of kernels with zeros.
  """

  run: Trained
  state: TrainState
  kernels: tuple[Measured, ...] = ()

  @property
  def table_bytes(self) -> int:
    """Bytes of the rows of all tables, without padding."""
    return table_bytes(self.run)

  @property
  def layer_bytes(self) -> int:
    """Bytes of the weights of all layers, as they are kept."""
    return layer_bytes(self.run)

  @property
  def scored(self) -> Scored:
    """Its network and layers, as they are where it is loaded."""
    forms = sparse_forms(self.run.config)
    return specialised(self.run.task.network, self.state.layers, forms)


def table_bytes(run: Trained) -> int:
  """Bytes of the rows of all tables of a run, without padding."""
  tables = run.task.collection.tables
  return sum(t.rows * t.storage.row_bytes(t.dim) for t in tables)


def layer_bytes(run: Trained) -> int:
  """Bytes of the weights of all layers of a run."""
  leaves = jax.tree.leaves(abstract_params(run.task))
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


class LayerChoice(NamedTuple):
  """How layers multiply.

  Attributes:
    dtype: value of `config.model.compute_dtype`.
    method: how the limits of the inputs of int8 layers are calibrated; None:
      those of each example count.
    outliers: number of inputs of int8 layers that stay float32.
    sparse: how kernels of floats are pruned; None: they are not.
  """

  dtype: str
  method: Method | None = None
  outliers: int = 0
  sparse: SparseChoice | None = None

  @property
  def calibrated(self) -> bool:
    """Whether examples are needed."""
    return self.method is not None or self.outliers > 0


def run_with(
  chosen: ChosenRun, choice: Choice, layers: LayerChoice | None = None
) -> Trained:
  """A run as it would be with other storages.

  Args:
    chosen: the run.
    choice: the storages.
    layers: how layers multiply; None: as they do.
  """
  config = with_storages(chosen.run.config, choice)
  if layers is not None:
    config.model.compute_dtype = layers.dtype
    config.model.activations = 'row' if layers.method is None else 'calibrated'
    config.model.outliers = layers.outliers
    if layers.dtype == 'int8':
      config.model.sparse = ()
  return trained(config.to_dict(), chosen.run.data)


def quantized(
  chosen: ChosenRun,
  choice: Choice,
  layers: LayerChoice | None = None,
  batches: Sequence[Batch] = (),
) -> Model:
  """Reads a checkpoint into other storages; rows are rounded to nearest.

  Args:
    chosen: the run.
    choice: the storages.
    layers: how layers multiply; None: as they do.
    batches: examples to calibrate layers on, of NumPy.

  Raises:
    InputError: a row or a weight has a value for which there is no code, or a
      storage does not suit the width of a table.
  """
  before = run_with(chosen, choice)
  layout = before.task.collection.layout
  saved = Saved(chosen.folder / 'checkpoints', layout, before.objective)
  state = saved.restore_for_evaluation(chosen.step, abstract_state(before.task))
  if layers is None:
    return Model(before, state)
  run = run_with(chosen, choice, layers)
  if layers.sparse is not None:
    return _pruned(run, state, layers.sparse)
  if layers.dtype == 'int8':
    ranges = None
    if layers.calibrated:
      ranges = calibrate(
        before.task.network,
        state.layers,
        state.tables,
        batches,
        layers.method or Method.MIN_MAX,
        layers.outliers,
      )
    like = abstract_state(run.task).params
    made = quantize_layers(state.params, like, ranges)
    state = dataclasses.replace(state, params=jax.device_put(made))
  return Model(run, state)


def _pruned(run: Trained, state: TrainState, choice: SparseChoice) -> Model:
  """A model of floats with pruned kernels, packed where that is faster."""
  params = prune(state.params, choice.pruning)
  dense = jnp.dtype(run.config.model.compute_dtype)
  found = measure(params, choice.batch, dense)
  config = run.config.to_dict()
  config['model']['sparse'] = chosen_forms(found)
  state = dataclasses.replace(state, params=params)
  return Model(trained(config, run.data), state, tuple(found))


def write(
  model: Model, folder: Path, chosen: ChosenRun, defaults: Mapping[str, Any]
) -> None:
  """Writes a model as a workdir.

  Args:
    model: the model.
    folder: the workdir, which must not exist.
    chosen: the run and checkpoint that it was made of.
    defaults: default of every field of a config.

  Raises:
    InputError: something cannot be written.
  """
  config = model.run.config.to_dict()
  claim = workdir.Claim(config, model.run.data, 0, defaults)
  layout = model.run.task.collection.layout
  write_workdir(
    folder, claim, model.run.objective, layout, model.state, chosen.step
  )
  made_of = {'workdir': str(chosen.folder.absolute()), 'step': chosen.step}
  files.write_json(folder / workdir.QUANTIZED, made_of)
