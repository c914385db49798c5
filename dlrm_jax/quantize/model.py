"""A trained model whose tables and layers have other numbers."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from dlrm_jax import files
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.build.chosen import ChosenRun
from dlrm_jax.build.network import sparse_forms
from dlrm_jax.build.storages import Choice, with_storages
from dlrm_jax.build.trained import Trained, trained
from dlrm_jax.build.written import write_workdir
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.embedding.layout import Stack, StackKind
from dlrm_jax.embedding.storage import Storage
from dlrm_jax.errors import InputError
from dlrm_jax.quantization.layers import calibrate, quantize_layers
from dlrm_jax.quantization.method import Method
from dlrm_jax.quantization.sparse import Scored, specialised
from dlrm_jax.quantize.sparse import (
  MOST_ROUNDS,
  SECONDS,
  Sparse,
  SparseChoice,
  chosen_forms,
  measure,
  prune,
)
from dlrm_jax.quantize.timing import medians
from dlrm_jax.rows import Pytree
from dlrm_jax.run import workdir
from dlrm_jax.scoring.function import compiled_score
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
    sparse: what was measured of kernels with zeros.
  """

  run: Trained
  state: TrainState
  sparse: Sparse | None = None

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
    InputError: a row or a weight is NaN, infinite, or beyond what is to keep
      it, or a storage does not suit the width of a table.
  """
  before = run_with(chosen, choice)
  layout = before.task.collection.layout
  saved = Saved(chosen.folder / 'checkpoints', layout, before.objective)
  state = saved.restore_for_evaluation(chosen.step, abstract_state(before.task))
  _check_finite(before, state)
  if layers is None:
    return Model(before, state)
  run = run_with(chosen, choice, layers)
  if layers.sparse is not None:
    return _pruned(run, state, layers.sparse)
  if layers.dtype == 'int8':
    if layers.outliers:
      _check_outliers(run, layers.outliers)
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


def int8_kernels(run: Trained) -> dict[str, tuple[int, int]]:
  """Inputs and outputs of the kernels of int8 of a run, by name."""
  params: dict[str, Any] = flatten_dict(
    dict(abstract_params(run.task)), sep='/'
  )
  return {k: x.shape for k, x in params.items() if x.dtype == jnp.int8}


def _check_outliers(run: Trained, outliers: int) -> None:
  """Raises an InputError where no layer would multiply codes."""
  most = max((x for x, _ in int8_kernels(run).values()), default=0)
  if outliers >= most:
    raise InputError(
      f'--outliers={outliers}: no layer has more than {most} inputs, so none '
      f'would be int8; choose fewer'
    )


def _check_finite(run: Trained, state: TrainState) -> None:
  """Raises an InputError where a row or a weight is NaN or infinite."""
  collection = run.task.collection
  layout = collection.layout
  for name, tree in state.tables.items():
    stack = layout.stacks[name]
    if _finite(tree, stack.storage, stack.dim):
      continue
    for table in dict.fromkeys(table for table, _ in layout.in_stack(name)):
      for node in range(_copies(stack)):
        values = np.asarray(collection.read(state.tables, table, node))
        for row, column in np.argwhere(~np.isfinite(values))[:1]:
          raise InputError(
            f'table {table}, row {row:,}: column {column} is '
            f'{values[row, column]}; expected finite numbers; choose another '
            f'checkpoint'
          )
  params: dict[str, Any] = flatten_dict(dict(state.params), sep='/')
  for name, weights in params.items():
    if not np.isfinite(weights).all():
      raise InputError(
        f'layer {name}: a weight is NaN or infinite; expected finite numbers; '
        f'choose another checkpoint'
      )


def _copies(stack: Stack) -> int:
  return stack.shards if stack.kind is StackKind.INDEPENDENT else 1


@functools.partial(jax.jit, static_argnums=(1, 2))
def _finite(tree: Pytree, storage: Storage, dim: int) -> jax.Array:
  """Whether all values of a stack are finite."""
  return jnp.isfinite(storage.values(tree, dim)).all()


def _pruned(run: Trained, state: TrainState, choice: SparseChoice) -> Model:
  """A model of floats with pruned kernels, packed where that is faster."""
  params = prune(state.params, choice.pruning)
  dense = jnp.dtype(run.config.model.compute_dtype)
  found = tuple(measure(params, choice.batch, dense))
  state = dataclasses.replace(state, params=params)

  def model_of(forms: tuple[str, ...]) -> Model:
    config = run.config.to_dict()
    config['model']['sparse'] = forms
    return Model(trained(config, run.data), state)

  whole, forms = model_of(()), chosen_forms(found)
  if not forms:
    return whole._replace(sparse=Sparse(found, math.nan, math.nan))
  packed = model_of(forms)
  calls = {
    name: _call_of(model, choice.batch)
    for name, model in (('packed', packed), ('whole', whole))
  }
  measured = Sparse(found, **medians(calls, SECONDS, MOST_ROUNDS))
  return (packed if measured.kept else whole)._replace(sparse=measured)


def _call_of(model: Model, examples: int) -> Callable[[], object]:
  """Scores so many examples of zeros."""
  network, layers = model.scored[:2]
  score, (dense, _) = compiled_score(network), network.shapes
  inputs = Inputs(
    np.zeros((examples, dense), np.float32),
    np.zeros((examples, network.ids), np.int32),
  )
  return lambda: np.asarray(score(layers, model.state.tables, inputs))


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
