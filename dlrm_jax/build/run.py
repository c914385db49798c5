"""The door of the config: a `ConfigDict` comes in, frozen objects go out.

With `build_*` and `fields` all that reads a config. Every message names
the field as it is typed on the command line.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from dlrm_jax import losses
from dlrm_jax.build.auto import settle
from dlrm_jax.build.optimizer import build_optimizer
from dlrm_jax.build.tables import MOST_SHARDS, Tables, build_tables
from dlrm_jax.build.wanted import options_of
from dlrm_jax.config.fields import (
  at_least,
  by_value,
  choose_one,
  count,
  size,
  whole,
  widths,
)
from dlrm_jax.data.loader import Reading
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.features import Feature
from dlrm_jax.errors import InputError
from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.run.description import Data, Run
from dlrm_jax.run.workdir import started
from dlrm_jax.synthetic.log import Synthetic, optimum
from dlrm_jax.synthetic.planted import Strength
from dlrm_jax.training.memory import layers_memory, row_state
from dlrm_jax.training.state import Task
from dlrm_jax.vocabulary.policy import STOP, UNKNOWN

_LOSSES = {
  'bce': losses.binary_cross_entropy,
  'mse': losses.squared_error,
}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def _synthetic(fields: Mapping[str, Any]) -> Synthetic:
  values = dict(fields)
  for name in ('tables', 'hotness'):
    values[name] = tuple(fields[name])
    if not all(isinstance(x, int) for x in values[name]):
      raise InputError(
        f'config.data.synthetic.{name} is {values[name]}; expected whole '
        f'numbers'
      )
  values['strength'] = Strength(**fields['strength'])
  return Synthetic(**values)


def open_data(config: ConfigDict) -> Data:
  """The click log that the config names."""
  kind = config.data.kind
  if kind == 'synthetic':
    return _synthetic(config.data.synthetic.to_dict())
  choose_one('data.kind', kind, {'prepared': None, 'synthetic': None})
  if not config.data.dir:
    raise InputError(
      'config.data.dir is empty; prepare a log with `python -m '
      'dlrm_jax.prepare` and pass --config.data.dir=DIR'
    )
  return open_prepared(config.data.dir)


def open_schema(config: ConfigDict) -> tuple[Schema, Scale]:
  """The columns of the data, or those to expect where there is none yet."""
  if config.data.kind != 'prepared' or config.data.dir:
    data = open_data(config)
    return data.schema, data.scale
  expected = config.data.expected
  if not expected.rows:
    raise InputError(
      'config.data.dir is empty, and the config does not say what sizes to '
      'expect (config.data.expected); pass --config.data.dir=DIR'
    )
  hotness = tuple(expected.hotness) or (1,) * len(expected.rows)
  if len(hotness) != len(expected.rows):
    raise InputError(
      f'config.data.expected.hotness has {len(hotness)} numbers; expected '
      f'one for each of the {len(expected.rows)} in config.data.expected.rows'
    )
  columns = tuple(
    Column(
      f'C{i}',
      whole('data.expected.rows', rows, 1),
      whole('data.expected.hotness', length, 1),
    )
    for i, (rows, length) in enumerate(
      zip(expected.rows, hotness, strict=True), 1
    )
  )
  n = whole('data.expected.dense', expected.dense, 0)
  names = tuple(f'I{i}' for i in range(1, n + 1))
  return Schema(names, columns), Scale((0.0,) * n, (1.0,) * n)


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


def _model(config: ConfigDict) -> DLRM:
  fields = config.model
  dim = whole('model.dim', fields.dim, 1)
  return DLRM(
    bottom=(*widths(config, 'model.bottom'), dim),
    top=widths(config, 'model.top'),
    interaction=choose_one(
      'model.interaction', fields.interaction, by_value(Interaction)
    ),
    dtype=choose_one('model.compute_dtype', fields.compute_dtype, _DTYPES),
  )


def _micro_batch(config: ConfigDict, batch: int) -> int:
  found = whole('train.micro_batch', config.train.micro_batch, 0)
  if found and batch % found:
    raise InputError(
      f'config.train.micro_batch is {found}; expected a divisor of '
      f'config.train.batch_size={batch}, or 0: whatever suits the device'
    )
  return found


class Planned(NamedTuple):
  """A task, and how its tables came to their places.

  Attributes:
    task: what is trained.
    tables: its features, with the placements and why.
    batch: examples of a step.
    memory: bytes of a device.
  """

  task: Task
  tables: Tables
  batch: int
  memory: int


def build_plan(config: ConfigDict, schema: Schema, scale: Scale) -> Planned:
  """What is trained: tables for the schema's columns, model, optimizers."""
  scaling = choose_one(
    'model.dense_scaling',
    config.model.dense_scaling,
    {'none': None, 'standard': scale},
  )
  model, batch = _model(config), count(config, 'train.batch_size', 1)
  if (
    len(schema.sparse) + bool(schema.dense) < 2
    and model.interaction is not Interaction.CAT
  ):
    raise InputError(
      f'config.model.interaction is {config.model.interaction}, but the data '
      'has one feature, which has nothing to interact with; set it to cat'
    )
  table_tx = rowwise(
    build_optimizer('table_optimizer', config.table_optimizer, of_tables=True)
  )
  shards = whole('tables.shards', config.tables.shards, 1, MOST_SHARDS)
  micro_batch = _micro_batch(config, batch)

  def layers(features: tuple[Feature, ...]) -> int:
    return layers_memory(
      model, len(schema.dense), features, -(-batch // shards), micro_batch
    )

  tables = build_tables(config, schema, row_state(table_tx), layers)
  task = Task(
    collection=EmbeddingCollection(tables.features, shards),
    model=model,
    dense_features=len(schema.dense),
    scale=scaling,
    loss=choose_one('train.loss', config.train.loss, _LOSSES),
    tx=build_optimizer('optimizer', config.optimizer),
    table_tx=table_tx,
    micro_batch=micro_batch,
  )
  memory = size('tables.memory', config.tables.memory)
  return Planned(task, tables, batch, memory)


def build_task(config: ConfigDict, schema: Schema, scale: Scale) -> Task:
  """What is trained; `build_plan` tells why its tables are where they are."""
  return build_plan(config, schema, scale).task


def identity(data: Data) -> dict[str, Any]:
  """What a run must know of its data, as JSON can hold it.

  `fingerprint` is equal for equal data; `ids` for data whose ids mean the
  same: made with the same vocabularies or the same hash, of the same kinds of
  `values`. Data of before kinds were kept has no `values`.
  """
  kinds = data.details.get('values')
  return {
    'fingerprint': data.fingerprint,
    'ids': data.details.get('ids', data.fingerprint),
    **({'values': kinds} if kinds else {}),
    'scale': data.scale._asdict(),
    'dense': list(data.schema.dense),
    'sparse': [dataclasses.asdict(column) for column in data.schema.sparse],
  }


def _references(data: Data, split: str) -> dict[str, dict[str, float]]:
  """Metrics that are known without a model, to compare with."""
  if not isinstance(data, Synthetic):
    return {}
  return {'Bayes': optimum(data.source(split))}


def _batch_size(config: ConfigDict) -> int:
  """Examples of a step, of which all lanes give equally many."""
  found = count(config, 'train.batch_size', 1)
  lanes = count(config, 'data.lanes', 1)
  if found % lanes:
    below = found // lanes * lanes
    nearest = f'{below} and {below + lanes}' if below else str(lanes)
    raise InputError(
      f'config.train.batch_size {found}: expected a multiple of '
      f'config.data.lanes={lanes}; nearest: {nearest}'
    )
  return found


def _notes_of_batch(
  config: ConfigDict, examples: int, started: bool
) -> Iterator[str]:
  """What is odd about the batch, of `examples` that there are to train on.

  A run that was started by a version that took any batch goes on.

  Raises:
    InputError: a step of a new run would see examples several times.
  """
  batch_size, lanes = config.train.batch_size, config.data.lanes
  if batch_size <= examples:
    return
  found = (
    f'config.train.batch_size is {batch_size:,}, but split train has only '
    f'{examples:,} rows, so a step sees each of them several times'
  )
  if not started:
    most = examples // lanes * lanes
    fix = f'at most {most}' if most else 'more rows to train on'
    raise InputError(f'{found}; expected {fix}')
  yield found


def _steps(config: ConfigDict, epoch: float) -> int:
  """Updates to make, where an epoch has so many, not a whole number."""
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


def build_run(config: ConfigDict, data: Data, workdir: Path) -> Run:
  """A training run on opened data; its config has no 'auto' encodings."""
  config = settle(config, data)
  if not data.splits.get('train'):
    raise InputError(
      f'the data has no split train; it has {", ".join(data.splits)}'
    )
  train = config.train
  if train.patience > 0 and not data.splits.get('validation'):
    raise InputError(
      f'config.train.patience is {train.patience}, but the data has no split '
      f'validation to stop by; it has {", ".join(data.splits)}'
    )
  examples, batch_size = data.splits['train'], _batch_size(config)
  notes = tuple(_notes_of_batch(config, examples, started(workdir)))
  epoch = examples / batch_size
  steps = _steps(config, epoch)
  task = build_task(config, data.schema, data.scale)
  average_every = whole('tables.average_every', config.tables.average_every, 0)
  if average_every and not any(
    table.placement.independent for table in task.collection.tables
  ):
    raise InputError(
      f'config.tables.average_every is {average_every}, but no table is '
      f'independent; set config.tables.placement=independent, or 0'
    )
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
    ),
    workdir=workdir,
    steps=steps,
    steps_per_epoch=epoch,
    fresh_tables=train.fresh_tables,
    eval_every=count(config, 'train.eval_every', 1),
    eval_batch_size=count(config, 'train.eval_batch_size', 1),
    checkpoint_every=count(config, 'train.checkpoint_every', 1),
    keep=count(config, 'train.keep', 1),
    patience=count(config, 'train.patience', 0),
    log_every=count(config, 'train.log_every', 1),
    average_every=average_every,
    seed=config.seed,
    config=config.to_dict(),
    references=functools.partial(_references, data),
    notes=notes,
  )
