"""Small tasks of every model of the family, for tests of all of them."""

import jax
import numpy as np

from dlrm_jax import sharding
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.build.task import build_task
from dlrm_jax.configs import default
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step

BATCH = 64
PAIRS = {'mf', 'gmf', 'neumf'}
"""Models of a user and an item."""

WITHOUT_DENSE = {'mf', 'gmf'}
OF_TWO_LABELS = {'shared_bottom', 'mmoe', 'esmm'}
WITHOUT_MLP = {'lr', 'fm', 'mf', 'gmf'}

_COLUMNS = (
  Column('C1', 60),
  Column('C2', 40),
  Column('C3', 40, 3),
  Column('C4', 30),
  Column('C5', 20, 2),
)


def schema_of(name):
  """Columns that a model can take: bags too, where it takes any number."""
  columns = _COLUMNS[:2] if name in PAIRS else _COLUMNS
  dense = () if name in WITHOUT_DENSE else ('I1', 'I2', 'I3')
  labels = ('click', 'conversion') if name in OF_TWO_LABELS else ('click',)
  return Schema(dense, columns, labels)


def config_of(name, fields=None):
  """Small layers, plain gradient descent, and eight shards.

  Args:
    name: name of a model.
    fields: value by dotted name of a field, of those that differ.
  """
  config = default.get_config()
  config.model.name = name
  config.model.dim = 4
  config.model.bottom = (8,)
  config.model.top = (8, 6)
  config.model.dcn.rank = 3
  config.model.mmoe.experts = 2
  config.model.mmoe.expert = config.model.shared_bottom.shared = (6,)
  config.optimizer.learning_rate = 0.3
  config.table_optimizer.learning_rate = 0.3
  config.tables.shards = 8
  config.train.batch_size = BATCH
  config.update_from_flattened_dict(fields or {})
  return config


def task_of(name, fields=None):
  """The task of `config_of`."""
  schema = schema_of(name)
  n = len(schema.dense)
  scale = Scale((0.0,) * n, (1.0,) * n)
  return build_task(config_of(name, fields), schema, scale)


def batch_of(name, seed):
  """A batch of random numbers; a few bags are empty, a few ids repeat.

  Some examples have no weight, others more than 1.
  """
  schema, random = schema_of(name), np.random.default_rng(seed)
  ids = [random.integers(-1, c.rows, (BATCH, c.hotness)) for c in schema.sparse]
  ids = np.concatenate(ids, 1).astype(np.int32)
  ids[5:9] = ids[5]
  dense = random.normal(size=(BATCH, len(schema.dense)))
  labels = random.integers(0, 2, (BATCH, len(schema.labels)))
  return Batch(
    Inputs(dense.astype(np.float32), ids),
    labels.astype(np.float32),
    random.choice(np.float32([0, 0.5, 1, 3]), BATCH),
  )


def on(devices):
  """A context in which so many devices are used."""
  return sharding.use(sharding.make_mesh(jax.devices()[:devices]))


def trained(name, task, devices, steps=3):
  """Trains some steps on so many devices.

  Returns:
    The state, and the losses.
  """
  with on(devices):
    state, step = new_state(task, jax.random.key(0)), compiled_step(task)
    losses = []
    for seed in range(steps):
      state, told = step(state, sharding.send(batch_of(name, seed)))
      losses.append(float(told.loss))
  return state, losses


def learned(name, task, devices, steps=3):
  """What was learned, with no trace of where it was learned.

  Returns:
    Losses, parameters, statistics, and tables by name, as numpy arrays.
  """
  state, losses = trained(name, task, devices, steps)
  tables = jax.device_get(state.tables)
  read = {
    t.name: np.asarray(task.collection.read(tables, t.name))
    for t in task.collection.tables
  }
  return losses, *jax.device_get((state.params, state.statistics)), read


def assert_close(found, wanted):
  """Equal but for rounding."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    found,
    wanted,
  )
