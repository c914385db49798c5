"""Builds a run again from its workdir; imports no loader and no reader."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.build.data import identity
from dlrm_jax.build.network import build_network
from dlrm_jax.build.objective import build_objective
from dlrm_jax.build.task import build_task
from dlrm_jax.data.schema import Data, Scale, Schema
from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.training.state import Task
from dlrm_jax.vocabulary.policy import STOP


class Trained(NamedTuple):
  """A run, built again from its workdir.

  Attributes:
    config: its settings.
    data: the `identity` of its data.
    task: what was trained.
    objective: the metric that chose the best checkpoint.
  """

  config: ConfigDict
  data: Mapping[str, Any]
  task: Task
  objective: Objective

  @property
  def model_name(self) -> str:
    """Name of the model in the config."""
    return self.config.model.name

  @property
  def shards(self) -> int:
    """S, the number of logical shards of its tables."""
    return self.config.tables.shards

  @property
  def set_folder(self) -> str | None:
    """Folder of the prepared set that it was trained on; None: on none."""
    prepared = self.config.data.kind == 'prepared'
    return (self.config.data.dir or None) if prepared else None

  @property
  def known_data(self) -> dict[str, Any]:
    """`data` with the kinds of its values, which older runs do not have."""
    return {**self.data, 'values': kinds_of_run(self)}

  @property
  def eval_batch_size(self) -> int:
    """Number of examples of an evaluation's batch, from the config."""
    return self.config.train.eval_batch_size


def trained(config: Mapping[str, Any], data: Mapping[str, Any]) -> Trained:
  """Builds a run again from its settings (`workdir.read_settings`)."""
  schema = Schema.from_json(data)
  scale = Scale(**{k: tuple(v) for k, v in data['scale'].items()})
  fields = ConfigDict(config)
  return Trained(
    fields,
    data,
    build_task(fields, schema, scale),
    build_objective(fields, schema),
  )


def network_of(config: Mapping[str, Any], data: Mapping[str, Any]) -> Network:
  """The network of a run for scoring, from its settings."""
  scale = Scale(**{k: tuple(v) for k, v in data['scale'].items()})
  return build_network(ConfigDict(config), Schema.from_json(data), scale)


def check_there(
  run: Trained, otherwise: str = 'name the set with --data=DIR'
) -> None:
  """Raises an `InputError` if the data of the training has been moved.

  Args:
    run: the run.
    otherwise: what the message advises beside.
  """
  folder = run.config.data.dir
  if run.config.data.kind == 'prepared' and not folder:
    raise InputError(
      f'the model was converted without a set; {otherwise}, or convert it '
      f'again with --config.data.dir=DIR'
    )
  if run.config.data.kind == 'prepared' and not Path(folder).exists():
    raise InputError(
      f'{folder}: the set that the run was trained on is not there (seen from '
      f'{Path.cwd()}); run this where training was started, or '
      f'{otherwise}'
    )


def kinds_of_run(run: Trained) -> Mapping[str, str]:
  """The kinds of a run's values; older runs have them in their config."""
  raw = ConfigDict(run.config.data.get('raw') or {}).to_dict()
  if 'values' in run.data or raw.get('format') not in ('csv', 'parquet'):
    return run.data.get('values', {})
  from dlrm_jax.prepare.readers.formats import feature_kinds

  return feature_kinds(raw)


def out_of_range(run: Trained) -> str:
  """The run's policy for ids out of range; older runs have 'stop'."""
  return run.config.data.get('out_of_range', STOP)


def check_fits(data: Data, trained_on: Mapping[str, Any]) -> None:
  """Checks that ids of the data mean the same as in the training.

  Args:
    data: the data to evaluate.
    trained_on: `identity` of the training's data.

  Raises:
    InputError: they do not; names the feature or field.
  """
  found = identity(data)
  for there, here in zip(trained_on['sparse'], found['sparse'], strict=False):
    if there != here:
      raise InputError(
        f'feature {here["name"]} has {here["rows"]:,} rows and hotness '
        f'{here["hotness"]} in the data; the model was trained with '
        f'{there["name"]}, {there["rows"]:,} rows, hotness '
        f'{there["hotness"]}. Prepared sets fit where both are hashed into '
        f'as many rows; otherwise evaluate the raw file'
      )
  # Runs and sets of before kinds were kept say nothing of them.
  kinds = trained_on.get('values', {})
  for name, kind in found.get('values', {}).items():
    if kinds.get(name, kind) != kind:
      raise InputError(
        f'feature {name} is made of values that are {kind} in the data; the '
        f'model was trained on values that are {kinds[name]}, which have other '
        f"rows. Prepare the data with 'values': {kinds[name]!r}, or evaluate "
        f'the raw file'
      )
  for field in ('sparse', 'dense', 'labels', 'ids'):
    if trained_on.get(field) != found.get(field):
      raise InputError(
        f'the data has other {field} than the model was trained with (same '
        f'numbers, other meaning). Prepared sets fit where both are hashed '
        f'into as many rows; otherwise evaluate the raw file'
      )
