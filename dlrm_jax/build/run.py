"""The training run of a config: task, data, schedule, folder.

`build/` is the door of the config: a `ConfigDict` comes in, frozen objects go
out. Every message names the field as it is typed on the command line.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.build.auto import settle
from dlrm_jax.build.data import open_data, open_schema, references
from dlrm_jax.build.network import build_network, check_trains
from dlrm_jax.build.objective import build_objective
from dlrm_jax.build.task import build_task
from dlrm_jax.build.wanted import options_of
from dlrm_jax.config.fields import (
  at_least,
  choose_one,
  count,
  field_value,
  whole,
)
from dlrm_jax.data.lists import IMPLICIT, ITEM, lists_of
from dlrm_jax.data.loader import Reading
from dlrm_jax.data.negatives import Negatives
from dlrm_jax.data.schema import Data, Scale, Schema
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import RANKED, Objective
from dlrm_jax.run.description import Origin, Run
from dlrm_jax.run.workdir import read_settings, started
from dlrm_jax.vocabulary.policy import STOP, UNKNOWN


def settled(config: ConfigDict) -> ConfigDict:
  """The config without 'auto' encodings, which take the counts of data."""
  options = options_of(config, open_schema(config)[0]).values()
  if not any(fields['encoding'] == 'auto' for fields in options):
    return config
  if config.data.kind == 'prepared' and not config.data.dir:
    raise InputError(
      'config.tables.encoding is auto: it needs the counts of a prepared set '
      '(--config.data.dir=DIR); or name an encoding'
    )
  return settle(config, open_data(config))


def _check_ranked(objective: Objective, data: Data) -> None:
  """Raises an `InputError` if a metric of lists decides, and there are none."""
  possible = data.splits.get('validation')
  lists = lists_of(data.details, 'validation')
  if objective.metric in RANKED and possible and not lists:
    raise InputError(
      f'config.train.objective is {objective.name}, but split validation has '
      f'no lists to rank; prepare the data with `python -m dlrm_jax.prepare '
      f'implicit`, or choose another objective'
    )


def build_negatives(config: ConfigDict, data: Data) -> Negatives:
  """The negatives that are drawn for each example of split train.

  The unknown row is drawn as any item: it learns to be one that nobody takes.

  Raises:
    InputError: the data is not implicit feedback.
  """
  found = count(config, 'data.negatives', 0)
  if not found:
    return Negatives()
  names = [column.name for column in data.schema.sparse]
  counted = data.details.get('columns', {}).get(ITEM)
  if data.details.get('kind') != IMPLICIT or not counted:
    raise InputError(
      f'config.data.negatives is {found}, but the data is not of users and '
      f'their items; prepare it with `python -m dlrm_jax.prepare implicit`, or '
      f'set it to 0'
    )
  first = counted['first_row'] - 1
  return Negatives(found, names.index(ITEM), first, counted['kept'] + 1)


def _batch_size(config: ConfigDict) -> int:
  """Number of examples of a step, an equal share from every lane."""
  found = count(config, 'train.batch_size', 1)
  lanes = count(config, 'data.lanes', 1)
  negatives = count(config, 'data.negatives', 0)
  least = lanes * (1 + negatives)
  if found % least:
    below = found // least * least
    nearest = f'{below} and {below + least}' if below else str(least)
    drawn = f' times 1 + config.data.negatives={negatives}' if negatives else ''
    raise InputError(
      f'config.train.batch_size {found}: expected a multiple of '
      f'config.data.lanes={lanes}{drawn}; nearest: {nearest}'
    )
  return found


def _notes_of_batch(
  config: ConfigDict, examples: int, started: bool
) -> Iterator[str]:
  """Lines about a batch that is larger than the training split.

  A run goes on that was started by a version which allowed such batches.

  Args:
    config: all of it.
    examples: number of examples of split train.
    started: whether the run has been started before.

  Raises:
    InputError: a step of a new run would see examples several times.
  """
  batch_size, lanes = config.train.batch_size, config.data.lanes
  copies = 1 + config.data.negatives
  if batch_size <= examples * copies:
    return
  found = (
    f'config.train.batch_size is {batch_size:,}, but split train has only '
    f'{examples:,} rows, so a step sees each of them several times'
  )
  if not started:
    most = examples // lanes * lanes * copies
    fix = f'at most {most}' if most else 'more rows to train on'
    raise InputError(f'{found}; expected {fix}')
  yield found


def _steps(config: ConfigDict, epoch: float) -> int:
  """Number of updates, where an epoch has `epoch` steps."""
  steps, epochs = count(config, 'train.steps', 0), config.train.epochs
  if steps:
    return steps
  if not 0 < epochs < math.inf:
    raise InputError(
      f'config.train.epochs is {epochs}; expected more than 0, or '
      f'config.train.steps'
    )
  if epochs * epoch >= 2**31:
    raise InputError(
      f'config.train.epochs={epochs} are {epochs * epoch:.3g} steps; expected '
      f'fewer than {2**31:,}'
    )
  return max(1, round(epochs * epoch))


def _init_from(config: ConfigDict, started: bool) -> tuple[Path, ...]:
  """The workdirs of other runs that a run starts from.

  Args:
    config: all of it.
    started: whether the run has been started before; then it does without
      them.

  Raises:
    InputError: one of them has no checkpoint.
  """
  folders = [Path(x.strip()) for x in config.train.init_from.split(',') if x]
  for folder in folders:
    if not started and not any(folder.glob('checkpoints/[0-9]*')):
      raise InputError(
        f'config.train.init_from={folder}: no checkpoint is there; name a '
        f'workdir'
      )
  return tuple(folders)


def _notes_of_rates(config: ConfigDict, steps: int) -> Iterator[str]:
  """Lines about learning rates whose decay does not end with the run.

  Args:
    config: all of it.
    steps: steps of the run.
  """
  ends: dict[int, list[str]] = {}
  for name in ('optimizer', 'table_optimizer'):
    fields = config[name]
    if fields.decay_steps:
      end = fields.decay_start + fields.decay_steps
      ends.setdefault(end, []).append(f'config.{name}')
  for end, names in ends.items():
    if abs(end - steps) > 0.01 * end:
      what = 'is 0 from there on' if end < steps else 'is not at its end then'
      yield (
        f'the rate of {" and ".join(names)} falls until step {end:,} '
        f'(decay_start + decay_steps), and the run has {steps:,} steps: it '
        f'{what}'
      )


def _check_pruned(config: ConfigDict, steps: int) -> None:
  """Raises an `InputError` for a run that ends before its layers are pruned."""
  fields = config.train.pruning
  last = fields.start + -(-fields.steps // fields.every) * fields.every
  if fields.sparsity and last > steps:
    raise InputError(
      f'config.train.pruning ends with update {last:,}, and the run has '
      f'{steps:,}; lower its start, steps or every, or train longer'
    )


def _origin(defaults: Mapping[str, Any], folder: Path) -> Origin:
  """The run in a workdir, for another one that starts from it.

  Args:
    defaults: default of every field, for a run of an earlier version.
    folder: the workdir.

  Raises:
    InputError: the folder is not the workdir of a run, or is damaged.
  """
  settings, data = read_settings(folder, defaults)
  fields, schema = ConfigDict(settings), Schema.from_json(data)
  scale = Scale(**{k: tuple(v) for k, v in data['scale'].items()})
  return Origin(
    build_objective(fields, schema),
    data['ids'],
    data.get('values', {}),
    build_network(fields, schema, scale).collection.features,
  )


def build_run(
  config: ConfigDict,
  data: Data,
  workdir: Path,
  defaults: Mapping[str, Any] | None = None,
) -> Run:
  """Builds a training run on opened data; settles 'auto' encodings.

  Args:
    config: all fields.
    data: the data of the config.
    workdir: folder of the run.
    defaults: default of every field, for the configs of earlier versions in
      `train.init_from`; None: the values of this config.
  """
  check_trains(config)
  config = settle(config, data)
  if not data.splits.get('train'):
    raise InputError(
      f'the data has no split train; it has {", ".join(data.splits)}'
    )
  train = config.train
  for field, use in (('patience', 'stop by'), ('plateau.patience', 'fall by')):
    given = field_value(train, field)
    if given > 0 and not data.splits.get('validation'):
      raise InputError(
        f'config.train.{field} is {given}, but the data has no split '
        f'validation to {use}; it has {", ".join(data.splits)}'
      )
  negatives = build_negatives(config, data)
  examples, batch_size = data.splits['train'], _batch_size(config)
  notes = tuple(_notes_of_batch(config, examples, started(workdir)))
  epoch = examples * (1 + negatives.count) / batch_size
  steps = _steps(config, epoch)
  notes += tuple(_notes_of_rates(config, steps))
  task = build_task(config, data.schema, data.scale)
  _check_pruned(config, steps)
  average_every = whole('tables.average_every', config.tables.average_every, 0)
  if average_every and not any(
    table.placement.independent for table in task.collection.tables
  ):
    raise InputError(
      f'config.tables.average_every is {average_every}, but no table is '
      f'independent; set config.tables.placement=independent, or 0'
    )
  objective = build_objective(config, data.schema)
  _check_ranked(objective, data)
  return Run(
    task=task,
    data=data,
    data_name=config.data.dir or config.data.kind,
    reading=Reading(
      batch_size=batch_size,
      lanes=count(config, 'data.lanes', 1),
      window=count(config, 'data.window', 1),
      seed=at_least(config, 'seed', 0),
      out_of_range=choose_one(
        'data.out_of_range',
        config.data.out_of_range,
        {word: word for word in (STOP, UNKNOWN)},
      ),
      negatives=negatives,
    ),
    workdir=workdir,
    steps=steps,
    steps_per_epoch=epoch,
    fresh_tables=train.fresh_tables,
    objective=objective,
    eval_every=count(config, 'train.eval_every', 1),
    eval_batch_size=count(config, 'train.eval_batch_size', 1),
    checkpoint_every=count(config, 'train.checkpoint_every', 1),
    keep=count(config, 'train.keep', 1),
    patience=count(config, 'train.patience', 0) or None,
    log_every=count(config, 'train.log_every', 1),
    average_every=average_every or None,
    seed=config.seed,
    config=config.to_dict(),
    init_from=_init_from(config, started(workdir)),
    origin=functools.partial(_origin, defaults or config.to_dict()),
    references=functools.partial(references, data),
    notes=notes,
  )
