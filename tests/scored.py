"""Runs of raw logs in folders, made in a second without any training."""

import random
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import polars as pl

from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.configs import default
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.export.write import write_export
from dlrm_jax.prepare import pipeline
from dlrm_jax.prepare.preparation import Settings, preparation_of
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.resources import default_memory
from dlrm_jax.run import workdir
from dlrm_jax.run.description import Run
from dlrm_jax.training.state import TrainState, new_state

ROWS = 400
STEP = 7
SPLITS = 'train=0.5,validation=0.25,test=0.25'
"""Shares of a log in the order of its rows, which a set keeps."""

RAW = {
  'format': 'csv',
  'label': 'click',
  'dense': {'price': 'log1p', 'age': 'none'},
  'sparse': {
    'user': 'integer',
    'site': 'hex',
    'word': None,
    'city': {'ids': 'hashed', 'rows': 20},
  },
  'bags': {'tags': {'separator': '|'}},
}
WEIGHTED = RAW | {
  'bags': {
    'tags': {'separator': '|'},
    'seen': {'values': 'integer', 'weights': 'scores'},
  }
}
TWO_LABELS = RAW | {'label': ['click', 'buy']}
ONE_HOT = {k: v for k, v in RAW.items() if k != 'bags'}
PAIRS = {
  'format': 'csv',
  'label': 'click',
  'sparse': {'user': 'integer', 'word': None},
}
"""Descriptions of a log's columns, as `config.data.raw` has them."""


def row_of(chance, number):
  """A row of the log, by name of the column; '' is missing."""

  def some(values, missing=0.0):
    return '' if chance.random() < missing else chance.choice(values)

  tags = [f'tag{chance.randrange(9)}' for _ in range(chance.randrange(4))]
  seen = [chance.randrange(12) for _ in range(chance.randrange(3))]
  return {
    'id': 1_000 + number,
    'click': chance.randrange(2),
    'buy': some([0, 1], 0.1),
    'price': some([-1, 0, 0.25, 3, 700], 0.1),
    'age': some([-2.5, 0.5, 1, 2]),
    'user': some(range(-3, 20), 0.1),
    'site': some(['ff', '68fd1e64', '0', '00000abc'], 0.1),
    'word': some(['é', 'two words', 'x', '4', '4.0', 'NaN'], 0.1),
    'city': some([f'city {k}' for k in range(40)], 0.1),
    'tags': '|'.join(tags),
    'seen': '|'.join(map(str, seen)),
    'scores': '|'.join(str(chance.choice([0.5, 2, -1])) for _ in seen),
  }


def rows_of(seed, count=ROWS):
  """Rows of a log, each by name of the column."""
  chance = random.Random(seed)
  return [row_of(chance, number) for number in range(count)]


def csv_of(rows, without=()):
  """The text of rows; no field has a comma or a quote."""
  names = [name for name in rows[0] if name not in without]
  lines = [','.join(str(row[name]) for name in names) for row in rows]
  return '\n'.join([','.join(names), *lines]) + '\n'


def columns_of(rows, schema):
  """Rows as lists of Python values, by column that a model reads.

  Args:
    rows: of the log.
    schema: a `RawSchema`.
  """
  kinds = {source.column: float for source in schema.dense}
  bags = {}
  for source in schema.sparse:
    kinds[source.column] = int if source.values == 'integer' else str
    if source.feature.bag:
      bags[source.column] = kinds[source.column]
      bags |= {source.weights: float} if source.weights else {}

  def value(name, text):
    text = str(text)
    if name in bags:
      return [bags[name](x) for x in text.split('|')] if text else []
    return kinds[name](text) if text else None

  return {n: [value(n, row[n]) for row in rows] for n in schema.names}


def frame_of(rows, schema):
  """The same as a frame of Polars, with the columns `id` and `price`, ..."""
  return pl.DataFrame(columns_of(rows, schema)).with_columns(
    pl.Series('id', [row['id'] for row in rows])
  )


def prepared(folder, raw, text):
  """Prepares a log; returns the folder of the set."""
  log = folder / 'log.csv'
  log.write_text(text)
  output = folder / 'set'
  job = preparation_of(
    reader_of(raw), {'all': [str(log)]}, Settings(SPLITS, shuffle=False), raw
  )
  with mock.patch('builtins.print'):
    pipeline.prepare_set(job, str(output), default_memory())
  return output


def config_of(data, name='dlrm', **fields):
  """A config of a small model of a set."""
  config = default.get_config()
  config.data.dir = str(data)
  config.model.name = name
  config.model.dim = 4
  config.model.bottom = config.model.top = (8,)
  config.model.dcn.rank = 3
  config.model.mmoe.experts = 2
  config.model.mmoe.expert = config.model.shared_bottom.shared = (6,)
  config.tables.shards = 1
  config.train.batch_size = 32
  config.tables.threshold = 0
  changes = {k.replace('__', '.'): value for k, value in fields.items()}
  config.update_from_flattened_dict(changes)
  return config


class Made(NamedTuple):
  """A run that was made.

  Attributes:
    run: its description.
    state: the state of its checkpoint.
    devices: the number of devices that the state is on.
  """

  run: Run
  state: TrainState
  devices: int = 1

  @property
  def folder(self) -> Path:
    """Its workdir."""
    return self.run.workdir

  @property
  def data(self) -> str:
    """Its prepared set."""
    return self.run.config['data']['dir']

  @property
  def network(self):
    """Its network."""
    return self.run.task.network

  def on_devices(self):
    """A context of its devices."""
    return sharding.use(sharding.make_mesh(jax.devices()[: self.devices]))

  def probabilities(self, inputs):
    """What the model must say of inputs: f64[B, T], in NumPy at the end."""
    missing = -len(inputs.ids) % self.devices
    inputs = jax.tree.map(
      lambda x: np.pad(x, [(0, missing), (0, 0)]), Inputs(*inputs)
    )
    nodes = [None]
    if self.network.nodes:
      nodes = [jax.numpy.int32(n) for n in range(self.network.nodes)]
    found = []
    with self.on_devices():
      layers, tables = self.state.layers, self.state.tables
      sent = sharding.send(inputs)
      for node in nodes:
        logits = jax.jit(self.network.outputs)(layers, tables, sent, node)
        found.append(1 / (1 + np.exp(-np.asarray(logits, np.float64))))
    return np.mean(found, 0)[: len(inputs.ids) - missing]


def varied(tree, seed):
  """Floats of a tree with noise: no two rows or biases are equal."""
  chance = np.random.default_rng(seed)

  def vary(x):
    if not np.issubdtype(x.dtype, np.floating):
      return x
    noise = chance.uniform(0.1, 0.7, x.shape) * chance.choice([-1, 1], x.shape)
    return jax.device_put(np.float32(np.asarray(x) + noise), x.sharding)

  return jax.tree.map(vary, tree)


def made(folder, config, devices=1):
  """A run in a folder with a checkpoint of a random state."""
  with mock.patch('builtins.print'):
    run = build_run(config, open_data(config), folder)
  defaults = default.get_config().to_dict()
  claim = workdir.Claim(run.config, identity(run.data), run.steps, defaults)
  mesh = sharding.make_mesh(jax.devices()[:devices])
  with sharding.use(mesh), workdir.claimed(run.workdir, claim):
    state = new_state(run.task, jax.random.key(3))
    statistics = jax.tree.map(lambda x: abs(x) + 0.1, state.statistics)
    state = state.replace(
      params=varied(state.params, 1),
      tables=varied(state.tables, 2),
      statistics=statistics,
    )
    layout = run.task.collection.layout
    checkpoints = Checkpoints(folder / 'checkpoints', layout, 3, run.objective)
    checkpoints.save(STEP, state, {'auc': 0.7})
    checkpoints.close()
  return Made(run, state, devices)


def of_log(folder, raw, name='dlrm', devices=1, **fields):
  """Prepares the log of 400 rows and makes a run of it."""
  folder.mkdir(exist_ok=True)
  data = prepared(folder, raw, csv_of(rows_of(0)))
  return made(folder / 'run', config_of(data, name, **fields), devices)


def exported(run, output):
  """Exports the checkpoint of a `Made`; returns the folder."""
  defaults = default.get_config().to_dict()
  write_export(choose(run.folder, STEP, defaults), output)
  return output


def blocks_of(data, split):
  """Inputs of a split of a set."""
  source = open_prepared(str(data)).source(split)
  blocks = [source[n] for n in range(-(-source.examples // 4096))]
  parts = [Inputs(b.dense, b.ids, b.id_weights) for b in blocks]
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)
