"""A trained model whose tables are kept in other storages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax.build.chosen import ChosenRun
from dlrm_jax.build.trained import Trained, trained
from dlrm_jax.build.written import write_workdir
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.errors import InputError
from dlrm_jax.quantize.choice import Choice, with_storages
from dlrm_jax.run import workdir
from dlrm_jax.training.state import TrainState, abstract_state


class Model(NamedTuple):
  """A run and its state for scoring.

  Attributes:
    run: the run.
    state: the state, without those of the optimizers.
  """

  run: Trained
  state: TrainState

  @property
  def table_bytes(self) -> int:
    """Bytes of the rows of all tables, without padding."""
    return table_bytes(self.run)


def table_bytes(run: Trained) -> int:
  """Bytes of the rows of all tables of a run, without padding."""
  tables = run.task.collection.tables
  return sum(t.rows * t.storage.row_bytes(t.dim) for t in tables)


def run_with(
  chosen: ChosenRun, choice: Choice, layers: str | None = None
) -> Trained:
  """A run as it would be with other storages.

  Args:
    chosen: the run.
    choice: the storages.
    layers: dtype of the products; None: as it is.
  """
  config = with_storages(chosen.run.config, choice)
  config.model.compute_dtype = layers or config.model.compute_dtype
  return trained(config.to_dict(), chosen.run.data)


def quantized(
  chosen: ChosenRun, choice: Choice, layers: str | None = None
) -> Model:
  """Reads a checkpoint into other storages; rows are rounded to nearest.

  Args:
    chosen: the run.
    choice: the storages.
    layers: dtype of the products; None: as it is.

  Raises:
    InputError: a row has a value for which there is no code, or a storage does
      not suit the width of a table.
  """
  run = run_with(chosen, choice, layers)
  layout = run.task.collection.layout
  saved = Saved(chosen.folder / 'checkpoints', layout, run.objective)
  state = saved.restore_for_evaluation(chosen.step, abstract_state(run.task))
  return Model(run, state)


def write(
  model: Model, folder: Path, step: int, defaults: Mapping[str, Any]
) -> None:
  """Writes a model as a workdir.

  Args:
    model: the model.
    folder: the workdir, which must not exist.
    step: step of its checkpoint.
    defaults: default of every field of a config.

  Raises:
    InputError: something cannot be written.
  """
  config = model.run.config.to_dict()
  claim = workdir.Claim(config, model.run.data, 0, defaults)
  layout = model.run.task.collection.layout
  write_workdir(folder, claim, model.run.objective, layout, model.state, step)


def check_new(folder: Path) -> None:
  """Raises an `InputError` where a workdir is there already."""
  if folder.exists():
    raise InputError(f'--output={folder}: is there already; choose another one')
