"""The two doors, against a short reference in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.encoding import Composed, Plain
from dlrm_jax.embedding.features import Feature, Pooling
from dlrm_jax.embedding.operations import Add
from dlrm_jax.embedding.partitions import Hashes
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.optim.adagrad import scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise

SHARED = Table('shared', 11, 4)
HASHED = Composed((Table('hashed', 5, 4),), Hashes(2**31 - 1, (5,)), Add(), 4)
FEATURES = (
  Feature('bag', Plain(SHARED), 3),
  Feature('one', Plain(Table('one', 7, 4))),
  Feature('mean', Plain(SHARED), 2, Pooling.MEAN),
  Feature('hashed', HASHED, 3, Pooling.MEAN),
)
VOCABULARY = (11, 7, 11, 10**9)
COLLECTION = EmbeddingCollection(FEATURES)


def draw(seed, batch=6, weighted=False):
  rng = np.random.default_rng(seed)
  ids = np.concatenate(
    [
      rng.integers(-1, v + 2, (batch, f.hotness))  # some are unknown
      for f, v in zip(FEATURES, VOCABULARY, strict=True)
    ],
    1,
  ).astype(np.int32)
  weights = rng.random(ids.shape).astype(np.float32) if weighted else None
  return ids, weights


def reference(tables, ids, weights):
  """f32[B, F, D] by definition, one id after the other."""
  out = np.zeros((len(ids), len(FEATURES), 4))
  for b in range(len(ids)):
    column = 0
    for f, feature in enumerate(FEATURES):
      total = 0.0
      for h in range(column, column + feature.hotness):
        row = int(feature.encoding.rows(jnp.array([[ids[b, h]]]))[0][0, 0])
        w = 1.0 if weights is None else weights[b, h]
        if 0 <= row < feature.encoding.tables[0].rows:
          out[b, f] += w * tables[feature.encoding.tables[0].name][row]
          total += w
      if feature.pooling is Pooling.MEAN and total:
        out[b, f] /= total
      column += feature.hotness
  return out


def vectors_of(collection, vectors, ids, weights):
  inputs = Inputs(jnp.zeros((len(ids), 0)), ids, weights)
  return encode(collection, vectors, inputs)['vectors']


def logical(tables):
  return {t.name: COLLECTION.read(tables, t.name) for t in COLLECTION.tables}


@pytest.mark.parametrize('weighted', [False, True])
def test_lookup_is_that_of_the_reference(weighted):
  tables = COLLECTION.init(jax.random.key(0))
  ids, weights = draw(0, weighted=weighted)
  ids[0] = PAD  # an example of empty bags only
  vectors = COLLECTION.lookup(tables, COLLECTION.rows(ids, weights))
  np.testing.assert_allclose(
    vectors_of(COLLECTION, vectors, ids, weights),
    reference(logical(tables), ids, weights),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize('weighted', [False, True])
def test_update_is_the_dense_gradient_step(weighted):
  inner = optax.chain(scale_by_rowwise_adagrad(), optax.scale(-0.3))
  tx = rowwise(inner)
  ids, weights = draw(1, weighted=weighted)
  rows = COLLECTION.rows(ids, weights)
  target = np.random.default_rng(2).normal(size=(6, 4, 4)).astype(np.float32)

  def loss(vectors):
    return jnp.sum(
      jnp.sin(vectors_of(COLLECTION, vectors, ids, weights)) * target
    )

  def dense_loss(tables):
    return loss(COLLECTION.lookup(tables, rows))

  tables = COLLECTION.init(jax.random.key(0))
  tables = {stack: x.reshape(-1, 4) for stack, x in tables.items()}
  dense = jax.grad(dense_loss)(tables)
  updates, _ = inner.update(dense, inner.init(tables))
  want = optax.apply_updates(tables, updates)
  grads = jax.grad(loss)(COLLECTION.lookup(tables, rows))
  got, *_ = COLLECTION.update(tx, tables, tx.init(tables), rows, grads)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5),
    got,
    want,
  )


def test_features_that_name_one_table_share_it():
  assert [t.name for t in COLLECTION.tables] == ['shared', 'one', 'hashed']
  assert COLLECTION.readers(SHARED) == ('bag', 'mean')


def test_tables_of_different_width_have_stacks_of_their_own():
  wide = Feature('wide', Plain(Table('wide', 3, 128)))
  both = EmbeddingCollection((FEATURES[1], wide))
  tables = both.init(jax.random.key(0))
  assert {k: v.shape for k, v in tables.items()} == {
    'rows_4': (8, 128),  # 32 rows of width 4 side by side
    'rows_128': (8, 128),
  }


def test_two_tables_of_one_name_are_refused():
  other = Feature('x', Plain(Table('shared', 12, 4)))
  with pytest.raises(InputError, match='table shared'):
    EmbeddingCollection((FEATURES[0], other))


def test_more_rows_than_int32_are_refused():
  table = Table('huge', 2**31, 4)
  with pytest.raises(InputError, match='table huge'):
    EmbeddingCollection((Feature('x', Plain(table)),))


def test_wrong_number_of_columns_is_named():
  with pytest.raises(ValueError, match='ids have 2 columns; the features'):
    COLLECTION.rows(jnp.zeros((1, 2), jnp.int32))


@settings(max_examples=8)
@given(
  st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 10**6)
)
def test_bags_of_any_layout_come_home(hotness, seed):
  features = tuple(
    Feature(f'f{i}', Plain(Table(f'f{i}', 5, 2 + 2 * (i % 2))), h)
    for i, h in enumerate(hotness)
  )
  collection = EmbeddingCollection(features)
  rng = np.random.default_rng(seed)
  ids = rng.integers(-1, 5, (3, sum(hotness))).astype(np.int32)
  tables = collection.init(jax.random.key(seed))
  vectors = collection.lookup(tables, collection.rows(ids))
  bag = dict.fromkeys(tables, 0)
  order = sorted(range(len(hotness)), key=lambda i: hotness[i])
  starts = np.concatenate([[0], np.cumsum(hotness)])
  for i in order:
    stack = collection.layout.blocks[f'f{i}'][0].stack
    table = np.asarray(collection.read(tables, f'f{i}'))
    padded = np.concatenate([table, np.zeros_like(table[:1])])
    want = padded[ids[:, starts[i] : starts[i + 1]]].sum(1)
    np.testing.assert_allclose(
      vectors[stack][:, bag[stack]], want, rtol=1e-5, atol=1e-6
    )
    bag[stack] += 1
