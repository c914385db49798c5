"""The door of the config: a `ConfigDict` comes in, frozen objects go out.

Nothing else in the package reads a config. Every message names the field as
it is typed on the command line.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dlrm_jax import losses
from dlrm_jax.batch import Batch
from dlrm_jax.data.loader import Reading, evaluation_batches, stream_batches
from dlrm_jax.data.planted import Strength
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.data.synthetic import Synthetic, optimum
from dlrm_jax.embedding.collection import (
  EmbeddingCollection,
  Feature,
  Pooling,
)
from dlrm_jax.embedding.encoding import Encoding, Hashed, Plain
from dlrm_jax.embedding.table import Table, uniform_by_cells
from dlrm_jax.errors import InputError
from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.optim.schedules import mlperf
from dlrm_jax.training.run import Data, Run
from dlrm_jax.training.state import Task

Choice = TypeVar('Choice')

_LOSSES = {
  'bce': losses.binary_cross_entropy,
  'mse': losses.squared_error,
}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
  'sgd': optax.identity,
  'adagrad': scale_by_adagrad,
  'optax_adagrad': functools.partial(optax.scale_by_rss, 0.1, 1e-7),
  'adam': optax.scale_by_adam,
}
_TABLE_OPTIMIZERS = _OPTIMIZERS | {'rowwise_adagrad': scale_by_rowwise_adagrad}
_FEATURE_FIELDS = {'encoding', 'rows', 'pooling', 'table'}


def _choose(field: str, value: Any, choices: Mapping[str, Choice]) -> Choice:
  if value not in choices:
    raise InputError(
      f'config.{field} is {value!r}; expected one of {", ".join(choices)}'
    )
  return choices[value]


def _by_value(kind: type[enum.Enum]) -> dict[str, Any]:
  return {member.value: member for member in kind}


def _field(config: ConfigDict, field: str) -> Any:
  value: Any = config
  for name in field.split('.'):
    value = value[name]
  return value


def _at_least(config: ConfigDict, field: str, least: float) -> Any:
  value = _field(config, field)
  if not least <= value < 2**63:
    raise InputError(
      f'config.{field} is {value!r}; expected a number of at least {least}'
    )
  return value


def _widths(config: ConfigDict, field: str) -> tuple[int, ...]:
  value = _field(config, field)
  widths = tuple(value)
  if not all(isinstance(w, int) and w > 0 for w in widths):
    raise InputError(
      f'config.{field} is {value!r}; expected widths of hidden layers, '
      f'positive whole numbers'
    )
  return widths


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
  _choose('data.kind', kind, {'prepared': None, 'synthetic': None})
  if not config.data.dir:
    raise InputError(
      'config.data.dir is empty; prepare a log with `python -m '
      'dlrm_jax.prepare` and pass --config.data.dir=DIR'
    )
  return open_prepared(config.data.dir)


def _encoding(feature: str, plain: Table, name: str, rows: int) -> Encoding:
  """The encoding of this name; `plain` is the table with a row an id."""
  where = f'tables.encoding (feature {feature})'
  if not _choose(where, name, {'plain': False, 'hashed': True}):
    return Plain(plain)
  if rows < 1:
    raise InputError(
      f'config.tables.rows (feature {feature}) is {rows}; the encoding hashed '
      f'needs the number of rows to hash into'
    )
  if plain.rows <= rows:
    return Plain(plain)
  return Hashed(dataclasses.replace(plain, rows=rows))


def _features(config: ConfigDict, schema: Schema) -> tuple[Feature, ...]:
  tables, overrides = config.tables, config.tables.features.to_dict()
  names = [column.name for column in schema.sparse]
  for name, given in overrides.items():
    if name not in names:
      raise InputError(
        f'config.tables.features.{name}: the data has no such feature; it '
        f'has {", ".join(names)}'
      )
    if not isinstance(given, Mapping):
      raise InputError(
        f'config.tables.features.{name} is {given!r}; expected fields, such '
        f"as {{'encoding': 'hashed', 'rows': 1000}}"
      )
    for field in given.keys() - _FEATURE_FIELDS:
      raise InputError(
        f'config.tables.features.{name}.{field}: no such field; expected '
        f'one of {", ".join(sorted(_FEATURE_FIELDS))}'
      )
  init = functools.partial(
    uniform_by_cells, scale=_at_least(config, 'tables.init_scale', 0)
  )
  shared: dict[str, int] = {}  # rows that a table must have for its readers
  for column in schema.sparse:
    table = overrides.get(column.name, {}).get('table', column.name)
    shared[table] = max(shared.get(table, 0), column.rows)
  features = []
  for column in schema.sparse:
    given = overrides.get(column.name, {})
    table = given.get('table', column.name)
    chosen = Table(table, shared[table], config.model.dim, init)
    encoding = _encoding(
      column.name,
      chosen,
      given.get('encoding', tables.encoding),
      given.get('rows', tables.rows),
    )
    pooling = _choose(
      'tables.pooling',
      given.get('pooling', tables.pooling),
      _by_value(Pooling),
    )
    features.append(Feature(column.name, encoding, column.hotness, pooling))
  return tuple(features)


def _optimizer(
  field: str,
  options: ConfigDict,
  choices: Mapping[str, Callable[[], optax.GradientTransformation]],
) -> optax.GradientTransformation:
  make = _choose(f'{field}.name', options.name, choices)
  try:
    schedule = mlperf(
      options.learning_rate,
      options.warmup_steps,
      options.decay_start,
      options.decay_steps,
      options.decay_power,
    )
  except InputError as error:
    raise InputError(f'config.{field}.{error}') from None
  return optax.chain(make(), optax.scale_by_learning_rate(schedule))


def build_task(config: ConfigDict, schema: Schema, scale: Scale) -> Task:
  """What is trained: tables for the schema's columns, model, optimizers."""
  scaling = _choose(
    'model.dense_scaling',
    config.model.dense_scaling,
    {'none': None, 'standard': scale},
  )
  dim = _at_least(config, 'model.dim', 1)
  return Task(
    collection=EmbeddingCollection(_features(config, schema)),
    model=DLRM(
      bottom=(*_widths(config, 'model.bottom'), dim),
      top=_widths(config, 'model.top'),
      interaction=_choose(
        'model.interaction', config.model.interaction, _by_value(Interaction)
      ),
      dtype=_choose('model.compute_dtype', config.model.compute_dtype, _DTYPES),
    ),
    dense_features=len(schema.dense),
    scale=scaling,
    loss=_choose('train.loss', config.train.loss, _LOSSES),
    tx=_optimizer('optimizer', config.optimizer, _OPTIMIZERS),
    table_tx=rowwise(
      _optimizer('table_optimizer', config.table_optimizer, _TABLE_OPTIMIZERS)
    ),
  )


def identity(data: Data) -> dict[str, Any]:
  """What a run must know of its data, as JSON can hold it.

  `fingerprint` is equal for equal data; `ids` for data whose ids mean the
  same: made with the same vocabularies or the same hash.
  """
  return {
    'fingerprint': data.fingerprint,
    'ids': data.details.get('ids', data.fingerprint),
    'scale': data.scale._asdict(),
    'dense': list(data.schema.dense),
    'sparse': [dataclasses.asdict(column) for column in data.schema.sparse],
  }


class Trained(NamedTuple):
  """A run as its workdir remembers it: config, `identity` of its data, task."""

  config: ConfigDict
  data: Mapping[str, Any]
  task: Task


def trained(config: Mapping[str, Any], data: Mapping[str, Any]) -> Trained:
  """A run, built again from what its workdir remembers."""
  schema = Schema(
    tuple(data['dense']), tuple(Column(**column) for column in data['sparse'])
  )
  scale = Scale(**{k: tuple(v) for k, v in data['scale'].items()})
  fields = ConfigDict(config)
  return Trained(fields, data, build_task(fields, schema, scale))


class Examined(NamedTuple):
  """Data to evaluate on.

  Attributes:
    name: the split, or the raw file.
    batches: of it.
    report: lines about rows that were skipped, once the batches are read.
  """

  name: str
  batches: Iterable[Batch]
  report: Callable[[], Iterable[str]]


def examined(
  run: Trained,
  path: str | None,
  split: str | None,
  batch_size: int | None,
  on_bad_row: str,
) -> Examined:
  """What to evaluate a run on.

  Args:
    run: whose ids the data must have.
    path: a prepared set, or a raw file of the kind that the run was trained
      on; None: what it was trained on.
    split: of a prepared set; None: test.
    batch_size: None: the one of the config.
    on_bad_row: 'stop' or 'skip', for a raw file.
  """
  if batch_size is None:
    batch_size = run.config.train.eval_batch_size
  if path and Path(path).is_file():
    if split:
      raise InputError(
        f'--split={split}: {path} is a raw file and has no splits'
      )
    return _raw(run, path, batch_size, on_bad_row)
  if path and not Path(path).exists():
    raise InputError(f'--data={path}: there is no such file or folder')
  data = open_prepared(path) if path else open_data(run.config)
  check_fits(data, run.data)
  split = split or 'test'
  batches = evaluation_batches(data.source(split), batch_size)
  return Examined(split, batches, lambda: ())


def _raw(run: Trained, path: str, batch_size: int, on_bad_row: str) -> Examined:
  if run.config.data.kind != 'prepared':
    raise InputError(
      f'--data={path}: the model was trained on {run.config.data.kind} data, '
      f'which has no raw files'
    )
  # Readers of raw files: training does without them.
  from dlrm_jax.data import criteo, movielens
  from dlrm_jax.data.criteo_read import BadRows

  prepared = open_prepared(run.config.data.dir)
  check_fits(prepared, run.data)
  bad = BadRows(on_bad_row)
  if prepared.details['kind'] == 'movielens':
    blocks = movielens.read_raw(prepared, path)
  else:
    blocks = criteo.read_raw(prepared, [path], bad=bad)
  return Examined(path, stream_batches(blocks, batch_size), bad.report)


def check_fits(data: Data, trained_on: Mapping[str, Any]) -> None:
  """Raises `InputError` where ids of data are not those of the training.

  Args:
    data: what is to be evaluated.
    trained_on: `identity` of the training's data.
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
  for field in ('sparse', 'dense', 'ids'):
    if trained_on[field] != found[field]:
      raise InputError(
        f'the data has other {field} than the model was trained with (same '
        f'numbers, other meaning). Prepared sets fit where both are hashed '
        f'into as many rows; otherwise evaluate the raw file'
      )


def _references(data: Data, split: str) -> dict[str, dict[str, float]]:
  """Metrics that are known without a model, to compare with."""
  if not isinstance(data, Synthetic):
    return {}
  return {'Bayes': optimum(data.source(split)).metrics}


def build_run(config: ConfigDict, data: Data, workdir: Path) -> Run:
  """A training run on opened data."""
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
  batch_size = _at_least(config, 'train.batch_size', 1)
  epoch = data.splits['train'] / batch_size
  steps = _at_least(config, 'train.steps', 0)
  if not steps:
    if not 0 < train.epochs < 2**31:
      raise InputError(
        f'config.train.epochs is {train.epochs}; expected more than 0, or '
        f'config.train.steps'
      )
    steps = max(1, round(train.epochs * epoch))
  return Run(
    task=build_task(config, data.schema, data.scale),
    data=data,
    data_name=config.data.dir or config.data.kind,
    reading=Reading(
      batch_size=batch_size,
      lanes=_at_least(config, 'data.lanes', 1),
      window=_at_least(config, 'data.window', 1),
      seed=_at_least(config, 'seed', 0),
    ),
    workdir=workdir,
    steps=steps,
    steps_per_epoch=epoch,
    fresh_tables=train.fresh_tables,
    eval_every=_at_least(config, 'train.eval_every', 1),
    eval_batch_size=_at_least(config, 'train.eval_batch_size', 1),
    checkpoint_every=_at_least(config, 'train.checkpoint_every', 1),
    keep=_at_least(config, 'train.keep', 1),
    patience=_at_least(config, 'train.patience', 0),
    log_every=_at_least(config, 'train.log_every', 1),
    seed=config.seed,
    config=config.to_dict(),
    references=functools.partial(_references, data),
  )
