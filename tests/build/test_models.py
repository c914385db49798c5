"""Every model of the family by its name in the config."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.build.network import MODELS, build_model
from dlrm_jax.build.task import build_task
from dlrm_jax.config.unused import unused
from dlrm_jax.configs import default
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.errors import InputError
from dlrm_jax.models.dcn import Structure
from dlrm_jax.training.state import abstract_state, create_state
from dlrm_jax.training.step import train_step

PAIR = Column('user', 20), Column('item', 30)
WITHOUT_DENSE = {'mf', 'gmf'}
OF_TWO_LABELS = {'shared_bottom', 'mmoe', 'esmm'}


def config_of(name):
  config = default.get_config()
  config.model.name = name
  config.model.dim = 4
  config.model.bottom = (8,)
  config.model.top = (8,)
  config.optimizer.learning_rate = config.table_optimizer.learning_rate = 0.02
  config.optimizer.name = config.table_optimizer.name = 'adam'
  return config


def task_of(name, config=None):
  dense = () if name in WITHOUT_DENSE else ('age', 'price')
  labels = ('click', 'buy') if name in OF_TWO_LABELS else ('click',)
  scale = Scale((0.0,) * len(dense), (1.0,) * len(dense))
  schema = Schema(dense, PAIR, labels)
  return build_task(config or config_of(name), schema, scale)


def batch_of(task):
  """64 examples whose labels follow from the ids and the dense features."""
  random = np.random.default_rng(0)
  dense = random.normal(size=(64, task.network.dense_features))
  ids = random.integers(0, 20, (64, 2))
  clicks = (ids[:, 0] < 8) | (ids[:, 1] < 5) | (dense.sum(1) > 1)
  labels = np.stack([clicks, clicks & (ids[:, 1] > 10)], 1)
  return Batch(
    Inputs(jnp.float32(dense), jnp.int32(ids)),
    jnp.float32(labels[:, : len(task.heads)]),
    jnp.ones(64),
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_every_model_learns_its_labels(name):
  task = task_of(name)
  batch = batch_of(task)
  state = create_state(task, jax.random.key(0))
  step = jax.jit(functools.partial(train_step, task))
  losses = []
  for _ in range(60):
    state, metrics = step(state, batch)
    losses.append(float(metrics.loss))
  assert losses[-1] < 0.7 * losses[0]
  logits = task.network.outputs(state.layers, state.tables, batch.inputs)
  assert logits.shape == batch.labels.shape
  assert np.mean((logits > 0) == (batch.labels > 0.5)) > 0.8


def test_neumf_has_the_tables_and_layers_of_gmf_and_mlp():
  states = {}
  for name, dim in (('gmf', 8), ('mlp', 6), ('neumf', 8)):
    config = config_of(name)
    config.model.dim, config.model.neumf.mlp_dim = dim, 6
    scale = Scale((), ())
    task = build_task(config, Schema((), PAIR), scale)
    tables = {t.name: (t.rows, t.dim) for t in task.collection.tables}
    layers = jax.tree.map(
      lambda x: x.shape, abstract_state(task).params['model']
    )
    states[name] = tables, layers
  found = states['neumf'], states['gmf'], states['mlp']
  for both, gmf, mlp in zip(*found, strict=True):
    assert both == {**gmf, **mlp}
    assert len(both) == len(gmf) + len(mlp)


def test_fields_of_a_model_reach_it():
  config = config_of('dcn')
  config.model.dcn.update(layers=2, rank=5, structure='parallel')
  config.model.norm = 'layer'
  model = build_model(config, 3)
  assert (model.layers, model.rank, model.outputs) == (2, 5, 3)
  assert model.structure is Structure.PARALLEL
  assert model.bottom == (8, 4)


@pytest.mark.parametrize(
  ('name', 'schema', 'why'),
  [
    ('fm', Schema((), PAIR, ('a', 'b')), 'config.model.name is fm, which has'),
    ('mf', Schema((), PAIR[:1]), 'config.model.name is mf, which takes two'),
    ('gmf', Schema(('x',), PAIR), 'config.model.name is gmf, which has no use'),
    ('esmm', Schema((), PAIR), 'config.model.name is esmm, which learns two'),
  ],
)
def test_columns_that_a_model_cannot_take_are_refused(name, schema, why):
  scale = Scale((0.0,) * len(schema.dense), (1.0,) * len(schema.dense))
  with pytest.raises(InputError, match=why):
    build_task(config_of(name), schema, scale)


@pytest.mark.parametrize('name', MODELS)
def test_what_a_model_does_not_read_has_no_effect(name):
  config, defaults = config_of(name), default.get_config().to_dict()
  config.model.update({'top': (3,), 'norm': 'layer', 'dropout': 0.5})
  config.model.compute_dtype = 'bfloat16'
  found = {x.field for x in unused(config.to_dict(), defaults)}
  attributes = vars(MODELS[name])['__dataclass_fields__']
  for attribute, field in {
    'top': 'top',
    'norm': 'norm',
    'dropout': 'dropout',
    'operands': 'compute_dtype',
  }.items():
    assert (f'model.{field}' in found) == (attribute not in attributes)


def test_weights_of_ids_are_not_cut_where_vectors_are():
  config = config_of('deepfm')
  config.tables.placement, config.tables.columns = 'column_wise', 2
  tables = task_of('deepfm', config).collection.tables
  cuts = {table.dim: table.placement.columns for table in tables}
  assert cuts == {4: 2, 1: 1}


def test_a_model_of_one_feature_is_refused_before_anything_is_planned():
  schema = Schema((), (Column('features', 20, 3),))
  with pytest.raises(InputError, match=r'dlrm\.interaction is dot, but'):
    build_task(config_of('dlrm'), schema, Scale((), ()))
