"""Every config builds and its step can be traced, every variant of it."""

import dataclasses
import functools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.build import trained
from dlrm_jax.build.data import identity, open_data, open_schema
from dlrm_jax.build.run import build_run
from dlrm_jax.build.task import build_task
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.embedding.encoding import Composed, Plain
from dlrm_jax.embedding.features import Pooling
from dlrm_jax.embedding.low_precision import BFLOAT16, INT8
from dlrm_jax.embedding.partitions import Hashes
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement
from dlrm_jax.errors import InputError
from dlrm_jax.synthetic.log import Synthetic
from dlrm_jax.training.state import abstract_state
from dlrm_jax.training.step import train_step
from tests.commands import ROOT
from tests.every_config import NAMES, VARIANTS, load, schema_of

CRITEO = Schema(
  tuple(f'I{i}' for i in range(1, 14)),
  tuple(Column(f'C{i}', 10**i if i < 8 else 50) for i in range(1, 27)),
)


def unit(schema):
  n = len(schema.dense)
  return Scale((0.0,) * n, (1.0,) * n)


def small(schema=CRITEO, **tables):
  config = load('criteo_kaggle')
  config.tables.update(tables)
  return build_task(config, schema, unit(schema))


def test_every_config_and_variant_is_in_the_list_of_them():
  files = {path.stem for path in (ROOT / 'configs').glob('*.py')}
  assert files - {'__init__', 'default'} == VARIANTS.keys()
  for file, variants in VARIANTS.items():
    if variants:
      with pytest.raises(ValueError, match='expected') as said:
        load(f'{file}:?')
      listed = str(said.value).partition('expected')[2].removeprefix(' one of')
      assert {*re.findall(r'\w+', listed)} - {'or'} == {*variants}


@pytest.mark.parametrize('name', NAMES)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_every_config_builds_and_is_traced(name):
  config = load(name)
  schema, scale = schema_of(config)
  task = build_task(config, schema, scale)
  size = config.train.batch_size
  batch = Batch(
    inputs=Inputs(
      dense=jax.ShapeDtypeStruct((size, len(schema.dense)), jnp.float32),
      ids=jax.ShapeDtypeStruct((size, schema.hotness), jnp.int32),
    ),
    labels=jax.ShapeDtypeStruct((size, len(schema.labels)), jnp.float32),
    weights=jax.ShapeDtypeStruct((size,), jnp.float32),
  )
  state = abstract_state(task)
  new, told = jax.eval_shape(functools.partial(train_step, task), state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert told.loss.shape == ()


def test_the_kaggle_model_has_the_published_number_of_parameters():
  params = abstract_state(small()).params
  assert sum(np.prod(x.shape) for x in jax.tree.leaves(params)) == 475_985


def test_only_tables_above_the_limit_are_hashed():
  features = small(encoding='hashed', rows=1000).collection.features
  encodings = {f.name: f.encoding for f in features}
  assert isinstance(encodings['C3'], Plain)
  assert isinstance(encodings['C4'], Composed)
  assert isinstance(encodings['C4'].partition, Hashes)
  assert max(t.rows for f in features for t in f.encoding.tables) == 1000


def test_a_feature_can_differ_from_the_rest():
  given = {'C5': {'encoding': 'hashed', 'rows': 7, 'pooling': 'mean'}}
  features = small(features=ConfigDict(given)).collection.features
  assert features[4].encoding.tables[0].rows == 7
  assert features[4].pooling is Pooling.MEAN
  assert isinstance(features[3].encoding, Plain)


def test_features_can_share_a_table_as_large_as_the_largest_needs():
  given = {'C2': {'table': 'shared'}, 'C3': {'table': 'shared'}}
  collection = small(features=ConfigDict(given)).collection
  shared = next(t for t in collection.tables if t.name == 'shared')
  assert shared.rows == 1000
  assert collection.readers(shared) == ('C2', 'C3')


def test_rows_and_states_are_kept_as_the_config_says_of_each_feature():
  given = {'C5': {'storage': 'int8', 'state': 'float32'}}
  task = small(features=ConfigDict(given), state='bfloat16')
  kept = {t.name: (t.storage, t.state) for t in task.collection.tables}
  assert kept['C5'] == (INT8, FLOAT32)
  assert kept['C4'] == (FLOAT32, BFLOAT16)


def test_features_that_share_a_table_keep_its_state_alike():
  given = {'C2': {'table': 't'}, 'C3': {'table': 't', 'state': 'bfloat16'}}
  with pytest.raises(InputError, match='share the table t, but state is'):
    small(features=ConfigDict(given))


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'C99': {}}, 'features.C99: the data has no such feature'),
    ({'C1': {'dim': 3}}, 'features.C1.dim: no such field'),
    ({'C1': {'encoding': 'qr'}}, "is 'qr'; expected one of plain, hashed"),
  ],
)
def test_wrong_fields_of_a_feature_are_named(given, message):
  with pytest.raises(InputError, match=message):
    small(features=ConfigDict(given))


def test_data_with_other_ids_does_not_fit():
  log = Synthetic(train=100)
  known = identity(log)
  trained.check_fits(log, known)
  other = dataclasses.replace(log, seed=1)
  with pytest.raises(InputError, match='other ids'):
    trained.check_fits(other, known)
  with pytest.raises(InputError, match=r'C1 has 50 rows .* 2,000 rows'):
    trained.check_fits(
      dataclasses.replace(log, tables=(50, *log.tables[1:])), known
    )


def test_a_task_is_built_again_from_what_a_run_remembers():
  config, log = load('synthetic'), Synthetic()
  config.model.dense_scaling = 'standard'
  remembered = json.loads(json.dumps(identity(log)))
  task = trained.trained(config.to_dict(), remembered).task
  assert task.network.scale == log.scale
  assert task.collection.tables[0].rows == log.tables[0]


def test_dense_features_are_standardised_when_asked():
  config = load('criteo_kaggle')
  config.model.dense_scaling = 'standard'
  scale = Scale((2.0,) * 13, (4.0,) * 12 + (0.0,))
  task = build_task(config, CRITEO, scale)
  plain = build_task(load('criteo_kaggle'), CRITEO, scale)
  vectors = task.collection.empty_vectors()
  dense = jnp.arange(13, dtype=jnp.float32)[None]
  inputs = Inputs(dense, jnp.zeros((1, 26), jnp.int32))
  by_hand = (dense - 2) / jnp.array([4.0] * 12 + [1.0])[None]
  layers = task.network.init(jax.random.key(0))
  np.testing.assert_allclose(
    task.network.apply(layers, inputs, vectors),
    plain.network.apply(layers, inputs._replace(dense=by_hand), vectors),
    rtol=1e-5,
  )


def test_auto_places_tables_by_size():
  placed = {t.name: t.placement for t in small().collection.tables}
  assert placed['C1'] == Placement(replicated=True)
  assert placed['C7'] == Placement()


def test_a_feature_can_have_its_own_placement():
  given = {
    'C3': {'placement': 'grid', 'spread': 4},
    'C4': {'placement': 'auto'},
  }
  task = small(placement='table_wise', columns=8, features=ConfigDict(given))
  placed = {t.name: t.placement for t in task.collection.tables}
  assert placed['C2'] == Placement(1)
  assert placed['C3'] == Placement(4, 8)
  assert placed['C4'] == Placement()


@pytest.mark.parametrize(
  ('name', 'placement'),
  [
    ('row_wise', Placement()),
    ('table_wise', Placement(1)),
    ('table_row_wise', Placement(2)),
    ('column_wise', Placement(1, 2)),
    ('grid', Placement(2, 2)),
    ('replicated', Placement(replicated=True)),
    ('independent', Placement(independent=True)),
  ],
)
def test_placements_by_name(name, placement):
  tables = small(placement=name).collection.tables
  assert {t.placement for t in tables} == {placement}


def test_a_layout_depends_on_the_shards_of_the_config_only():
  layout = small(shards=4).collection.layout
  assert layout.shards == 4
  assert layout == small(shards=4).collection.layout


@pytest.mark.parametrize(
  'name', ['criteo_kaggle', 'criteo_terabyte', 'criteo_mlperf']
)
def test_sizes_are_known_before_there_is_data(name):
  schema, scale = open_schema(load(name))
  assert len(schema.dense) == len(scale.mean) == 13
  assert schema.hotness == 26
  published = {
    'criteo_kaggle': 33_762_577,
    'criteo_terabyte': 49_126_297,
    'criteo_mlperf': 187_767_399,
  }
  assert sum(c.rows for c in schema.sparse) == published[name]


def test_the_multihot_tables_are_the_published_ones():
  schema, _ = open_schema(load('criteo_mlperf:multihot'))
  assert sum(c.rows for c in schema.sparse) == 204_184_588
  assert schema.hotness == 214


def synthetic_run(workdir=pathlib.Path('w'), **fields):
  config = load('synthetic')
  config.data.synthetic.update(tables=(50, 40), hotness=(1, 1), train=1000)
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return build_run(config, open_data(config), workdir)


def test_a_batch_has_no_example_twice():
  with pytest.raises(InputError, match=r'has only 1,000 rows.* at most 1000'):
    synthetic_run(train__batch_size=1008)
  with pytest.raises(InputError, match=r'has only 5 rows.* more rows'):
    synthetic_run(data__synthetic__train=5, train__batch_size=8)


def test_a_run_that_was_started_with_too_large_a_batch_goes_on(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  run = synthetic_run(tmp_path, train__batch_size=1008)
  assert run.reading.batch_size == 1008
  assert 'has only 1,000 rows' in run.notes[0]
  run = synthetic_run(tmp_path, train__batch_size=1000)
  assert not any('rows' in note for note in run.notes)


def test_a_rate_that_falls_to_another_step_than_the_last_is_noted():
  fields = {
    'optimizer__decay_start': 0,
    'optimizer__decay_steps': 30,
    'table_optimizer__decay_steps': 0,
    'train__batch_size': 1000,
  }

  def notes(epochs):
    return synthetic_run(train__epochs=epochs, **fields).notes

  assert notes(30.0) == ()
  (late,), (early,) = notes(10.0), notes(40.0)
  assert 'config.optimizer falls until step 30' in late
  assert late.endswith('the run has 10 steps: it is not at its end then')
  assert early.endswith('the run has 40 steps: it is 0 from there on')


def test_an_epoch_of_one_step_begins_with_each_step():
  run = synthetic_run(train__batch_size=1000, train__epochs=3.0)
  assert run.steps == 3
  assert [run.begins_epoch(step) for step in range(3)] == [False, True, True]


IMPOSSIBLE = [
  ('train__batch_size', 10**12, 'at most 2,147,483,647'),
  ('train__eval_batch_size', 10**12, 'at most 2,147,483,647'),
  ('train__steps', 2**31, 'at most 2,147,483,647'),
  ('train__epochs', 1e12, r'config.train.epochs=1000000000000.0 are 1.25e\+14'),
  ('train__epochs', math.inf, 'config.train.epochs is inf'),
  ('tables__shards', 10**9, 'at most 65,536'),
  ('model__top', (2**31,), 'expected widths'),
  ('model__top', (True,), 'expected widths'),
  ('tables__columns', 10**6, 'at most 1,024'),
  ('optimizer__learning_rate', math.nan, 'expected a number of 0 or more'),
]


@pytest.mark.parametrize(('field', 'value', 'message'), IMPOSSIBLE)
def test_numbers_that_can_not_be_are_refused(field, value, message):
  given = {'train__batch_size': 8, 'tables__placement': 'grid'}
  with pytest.raises(InputError, match=message):
    synthetic_run(**(given | {field: value}))
