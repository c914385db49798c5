"""A word in a config makes the encoding that it names."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.data.schema import Column, Schema
from dlrm_jax.embedding.encoding import Composed, Plain, Projected
from dlrm_jax.embedding.operations import (
  Add,
  Concat,
  Mult,
  PathBased,
  TensorTrain,
)
from dlrm_jax.embedding.partitions import (
  ChineseRemainder,
  Given,
  Hashes,
  QuotientRemainder,
)
from dlrm_jax.training.state import abstract_state
from dlrm_jax.training.step import train_step
from tests.build.test_build import small

DIM = 16
SCHEMA = Schema(
  ('I1', 'I2'),
  (Column('few', 100), Column('some', 1000), Column('many', 5000, 3)),
)
PAIR = 'tests.partitions_of_a_user:pair'
OPERATIONS = {'mult': Mult, 'add': Add, 'concat': Concat, 'path': PathBased}
PARTITIONS = {
  'hashed': Hashes,
  'quotient_remainder': QuotientRemainder,
  'chinese_remainder': ChineseRemainder,
  'partitions': Given,
}


def build(**tables):
  return small(SCHEMA, **tables)


def encodings(**tables):
  features = build(**tables).collection.features
  return {feature.name: feature.encoding for feature in features}


def parameters(encoding):
  """Of its tables, each once, and of its layers."""
  tables = {t.name: t.rows * t.dim for t in encoding.tables}
  return sum(tables.values()) + encoding.layers()


def rows(encoding):
  return tuple(table.rows for table in encoding.tables)


def trace(task):
  batch = Batch(
    inputs=Inputs(
      dense=jax.ShapeDtypeStruct((8, 2), jnp.float32),
      ids=jax.ShapeDtypeStruct((8, SCHEMA.hotness), jnp.int32),
    ),
    labels=jax.ShapeDtypeStruct((8, 1), jnp.float32),
    weights=jax.ShapeDtypeStruct((8,), jnp.float32),
  )
  state = abstract_state(task)
  new, told = jax.eval_shape(functools.partial(train_step, task), state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert told.loss.shape == ()


@pytest.mark.parametrize(
  ('word', 'combine'),
  sorted({*itertools.product(PARTITIONS, OPERATIONS)} - {('hashed', 'path')}),
)
@pytest.mark.parametrize('parts', [0, 2])
def test_every_partition_is_combined_in_every_way(word, combine, parts):
  given = {'encoding': word, 'combine': combine, 'partitions': PAIR}
  task = build(**given, parts=parts, compression=3.0, hidden=4)
  made = {f.name: f.encoding for f in task.collection.features}
  assert made['few'] == Plain(made['few'].tables[0])
  for name in ('some', 'many'):
    assert isinstance(made[name], Composed)
    assert isinstance(made[name].partition, PARTITIONS[word])
    one = word == 'hashed' and not parts  # hash: nothing to combine
    assert isinstance(made[name].operation, Add if one else OPERATIONS[combine])
    assert made[name].dim == DIM
  if word != 'partitions':
    for name, n in (('some', 1000), ('many', 5000)):
      assert parameters(made[name]) <= n * DIM / 3
      assert parameters(made[name]) > 0.9 * n * DIM / 3
  trace(task)


@pytest.mark.parametrize('word', ['tensor_train', 'robe', 'mixed_dims'])
def test_the_other_encodings_are_built(word):
  task = build(encoding=word, compression=4.0)
  tables = {t.name: t.rows * t.dim for t in task.collection.tables}
  made = [f.encoding for f in task.collection.features[1:]]
  layers = sum(encoding.layers() for encoding in made)
  assert sum(tables.values()) - 100 * DIM + layers <= 6000 * DIM / 4
  kinds = {'mixed_dims': (Plain, Projected)}.get(word, (Composed,))
  assert {type(encoding) for encoding in made} <= set(kinds)
  trace(task)


def test_three_partitions_and_three_hashes_are_built():
  for word in ('quotient_remainder', 'chinese_remainder', 'hashed'):
    made = encodings(encoding=word, parts=3)['many']
    assert len(made.tables) == 3
    assert [table.name for table in made.tables] == [
      'many.1',
      'many.2',
      'many.3',
    ]


# The papers' formulas.


@pytest.mark.parametrize('collisions', [2, 7, 60])
def test_quotients_and_remainders_have_the_papers_rows(collisions):
  made = encodings(encoding='quotient_remainder', buckets=(collisions, 0))
  for name, n in (('some', 1000), ('many', 5000)):
    assert rows(made[name]) == (collisions, math.ceil(n / collisions))
    assert parameters(made[name]) == DIM * (
      collisions + math.ceil(n / collisions)
    )


def test_remainders_have_the_rows_that_are_asked_for():
  features = ConfigDict({'many': {'buckets': (71, 73)}})
  made = encodings(
    encoding='chinese_remainder', buckets=(31, 37), features=features
  )
  assert rows(made['some']) == (31, 37)
  assert rows(made['many']) == (71, 73)
  assert parameters(made['many']) == DIM * (71 + 73)


def test_what_it_takes_is_coprime_for_remainders():
  made = encodings(encoding='chinese_remainder', buckets=(50, 0))
  assert rows(made['some']) == (50, 21)  # 20 divides
  assert rows(made['many']) == (50, 101)


def test_concatenated_parts_have_their_share_of_the_width():
  made = encodings(
    encoding='quotient_remainder', combine='concat', buckets=(7, 0)
  )['many']
  assert [table.dim for table in made.tables] == [8, 8]
  assert parameters(made) == 8 * (7 + 715)


def test_a_path_has_a_table_and_perceptrons():
  made = encodings(
    encoding='quotient_remainder', combine='path', buckets=(0, 7), hidden=5
  )['many']
  assert rows(made) == (715,)
  assert parameters(made) == 715 * DIM + 7 * (2 * DIM * 5 + 5 + DIM)


def test_hashed_tables_have_the_rows_that_are_asked_for():
  assert rows(encodings(encoding='hashed', rows=300)['many']) == (300,)
  two = encodings(encoding='hashed', rows=300, parts=2)['many']
  assert rows(two) == (150, 150)
  cut = encodings(encoding='hashed', rows=300, parts=2, combine='concat')
  assert rows(cut['many']) == (300, 300)
  quarter = encodings(encoding='hashed')
  assert rows(quarter['many']) == (1250,)


def test_a_tensor_train_is_the_sum_of_its_cores():
  made = encodings(encoding='tensor_train', rank=4, compression=2.0)['many']
  m = made.partition.buckets
  assert math.prod(m) >= 5000
  assert made.operation == TensorTrain(4)
  # r_(j-1) d_j r_j elements a core: 16 = 2 * 2 * 4.
  assert parameters(made) == m[0] * 2 * 4 + m[1] * 4 * 2 * 4 + m[2] * 4 * 4


def test_the_rank_falls_until_the_budget_suffices():
  ranks = [
    encodings(encoding='tensor_train', rank=64, compression=c)[
      'many'
    ].operation.rank
    for c in (2.0, 8.0, 30.0)
  ]
  assert ranks == sorted(ranks, reverse=True)
  assert ranks[0] > ranks[-1]


def test_mixed_dimensions_follow_the_power_law():
  made = encodings(encoding='mixed_dims', alpha=1.0)
  # 16 (1000 / 5000)^1 = 3.2, which is nearest to 4.
  assert made['some'].tables[0].dim == 16
  assert isinstance(made['many'], Projected)
  assert (made['many'].tables[0].rows, made['many'].tables[0].dim) == (5000, 4)
  assert parameters(made['many']) == 5000 * 4 + 4 * 16


def test_robe_is_one_array_for_all():
  made = encodings(encoding='robe', compression=10.0)
  (array,) = {*made['some'].tables, *made['many'].tables}
  assert (array.rows, array.dim) == (6000 * DIM // 10 // 8, 8)
  assert made['some'].partition.salt != made['many'].partition.salt


def test_small_tables_stay_plain_and_the_threshold_moves():
  made = encodings(encoding='hashed', threshold=1000)
  assert isinstance(made['some'], Plain)
  assert isinstance(made['many'], Composed)
  made = encodings(encoding='hashed', threshold=0)
  assert isinstance(made['few'], Composed)


@pytest.mark.parametrize('word', ['hashed', 'quotient_remainder'])
def test_no_compression_is_plain(word):
  made = encodings(encoding=word, compression=1.0)
  assert {type(encoding) for encoding in made.values()} == {Plain}


def test_products_of_sums_are_asked_for_by_name():
  for word, first in (
    ('combine_then_pool', False),
    ('pool_then_combine', True),
  ):
    made = encodings(encoding='quotient_remainder', multi_hot=word)['many']
    assert made.sums_first is made.pools_first is first


def test_first_values_scale_with_the_plain_tables():
  made = encodings(encoding='quotient_remainder', init_scale=0.5)
  bound = 0.5 / math.sqrt(5000)
  assert made['many'].tables[0].bound == pytest.approx(bound)
  assert made['few'].tables[0].bound == pytest.approx(0.05)


@pytest.mark.parametrize('suffix', ['csv', 'npy'])
def test_partitions_come_from_files(tmp_path, suffix):
  path = write(tmp_path / f'given.{suffix}', buckets_of_pair(5000))
  made = encodings(encoding='partitions', partitions=str(path))
  assert rows(made['many']) == (100, 50)
  assert rows(made['some']) == (100, 10)
  called = encodings(encoding='partitions', partitions=PAIR)
  ids = jnp.arange(-1, 5001, dtype=jnp.int32)[None]
  for a, b in zip(
    made['many'].rows(ids), called['many'].rows(ids), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def buckets_of_pair(count):
  ids = np.arange(count)
  return np.stack([ids % 100, ids // 100], 1)


def write(path, found):
  if path.suffix == '.npy':
    np.save(path, found)
  else:
    np.savetxt(path, found, '%g', delimiter=',')
  return path
