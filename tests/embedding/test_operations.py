"""First values, layers and gradients of what parts become."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.encoding import Composed, Plain, Projected
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.operations import (
  Add,
  ChosenMLP,
  Concat,
  Mult,
  PathBased,
  TensorTrain,
  near_equal_factors,
)
from dlrm_jax.embedding.partitions import QuotientRemainder
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError

IDS, DIM, BOUND = 12_000, 12, 0.4
BUCKETS = {2: (120, 100), 3: (60, 20, 10)}


class Encoder(nn.Module):
  collection: EmbeddingCollection

  @nn.compact
  def __call__(self, vectors, ids):
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids)
    return encode(self.collection, vectors, inputs)['vectors']


def composed(operation, buckets=(4, 3), dim=DIM):
  """As the program makes it from a config."""
  parts = len(buckets)
  widths = operation.widths(dim, parts)
  bounds = operation.bounds(BOUND, dim, parts)
  tables = tuple(
    Table(f't{j}', rows, width, bound=bound)
    for j, (rows, width, bound) in enumerate(
      zip(buckets, widths, bounds, strict=False)
    )
  )
  partition = QuotientRemainder(math.prod(buckets), buckets)
  return Composed(tables, partition, operation, dim)


def first_vectors(encoding, ids, seed=0):
  """f[n, D] of a column of ids at the first values."""
  collection = EmbeddingCollection((Feature('x', encoding),))
  keys = jax.random.split(jax.random.key(seed))
  tables = collection.init(keys[0])
  vectors = collection.lookup(tables, collection.rows(ids))
  made, _ = Encoder(collection).init_with_output(keys[1], vectors, ids)
  return np.asarray(made)[:, 0]


ENCODINGS = {
  'plain': Plain(Table('t', IDS, DIM, bound=BOUND)),
  'projected': Projected(Table('t', IDS, 4, bound=BOUND), DIM),
  **{
    f'{type(operation).__name__} {parts}': composed(operation, buckets)
    for parts, buckets in BUCKETS.items()
    for operation in (
      Add(),
      Mult(),
      Concat(),
      PathBased(16),
      TensorTrain(1),
      TensorTrain(4),
    )
  },
}


@pytest.mark.slow
@pytest.mark.parametrize('name', ENCODINGS)
def test_first_values_have_the_variance_of_a_plain_table(name):
  ids = jnp.arange(0, IDS, 7, dtype=jnp.int32)[:, None]
  drawn = [first_vectors(ENCODINGS[name], ids, seed) for seed in range(8)]
  mean, square = np.mean(drawn), np.square(drawn).mean()
  deviation = BOUND / math.sqrt(3)
  np.testing.assert_allclose(mean, 0, atol=0.1 * deviation)
  # Few layers and few rows are drawn: their squares are themselves uneven.
  few = name.split()[0] in ('projected', 'PathBased', 'TensorTrain')
  np.testing.assert_allclose(square, deviation**2, rtol=0.2 if few else 0.05)


@pytest.mark.parametrize('parts', [2, 3])
@pytest.mark.parametrize('operation', [Add(), Mult(), Concat(), TensorTrain(3)])
def test_bounds_give_the_variance_exactly(operation, parts):
  """By the variances of independent sums and products."""
  squares = [b * b / 3 for b in operation.bounds(BOUND, DIM, parts)]
  match operation:
    case Add():
      variance = sum(squares)
    case Mult():
      variance = math.prod(squares)
    case Concat():
      variance = min(squares)
      assert len(set(squares)) == 1
    case TensorTrain(rank):
      variance = rank ** (parts - 1) * math.prod(squares)
  np.testing.assert_allclose(variance, BOUND**2 / 3, rtol=1e-6)


@pytest.mark.parametrize(('parts', 'dim'), [(2, 12), (3, 12), (4, 24), (3, 4)])
def test_a_tensor_train_is_the_contraction_of_its_cores(parts, dim):
  rank, operation = 3, TensorTrain(3)
  factors = near_equal_factors(dim, parts)
  ranks = (1, *(rank,) * (parts - 1), 1)
  shapes = [(ranks[j], factors[j], ranks[j + 1]) for j in range(parts)]
  assert operation.widths(dim, parts) == tuple(map(math.prod, shapes))
  rng = np.random.default_rng(0)
  cores = [rng.normal(size=(5, 2, *s)).astype(np.float32) for s in shapes]
  flat = tuple(jnp.asarray(c.reshape(5, 2, -1)) for c in cores)
  made = operation.combine(flat, (), (), 'x')
  want = cores[0]
  for core in cores[1:]:
    want = np.einsum('xyarb,xybsc->xyarsc', want, core)
    want = want.reshape(5, 2, 1, -1, want.shape[-1])
  np.testing.assert_allclose(
    made, want.reshape(5, 2, dim), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('dim', [1, 2, 7, 12, 16, 64, 128])
@pytest.mark.parametrize('parts', [1, 2, 3, 4])
def test_factors_have_the_width_for_their_product(dim, parts):
  factors = near_equal_factors(dim, parts)
  assert len(factors) == parts
  assert math.prod(factors) == dim


def test_a_chosen_perceptron_is_the_one_that_is_chosen():
  count, hidden, dim = 5, 3, 4
  module = ChosenMLP(count, hidden)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(6, 2, dim)).astype(np.float32)
  choice = rng.integers(0, count, (6, 2)).astype(np.int32)
  params = module.init(jax.random.key(0), x, choice)
  params = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape).astype(np.float32)), params
  )
  by_hand = {name: np.asarray(p) for name, p in params['params'].items()}
  made = module.apply(params, x, choice)
  for at in np.ndindex(6, 2):
    which = choice[at]
    mine = slice(which * hidden, (which + 1) * hidden)
    inner = x[at] @ by_hand['enter'][:, mine] + by_hand['enter_bias'][mine]
    want = np.maximum(inner, 0) @ by_hand['leave'][mine]
    want = want + by_hand['leave_bias'][which]
    np.testing.assert_allclose(made[at], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('operation', [PathBased(3), Mult(), Add(), Concat()])
def test_layers_have_as_many_parameters_as_they_say(operation):
  encoding = composed(operation, (5, 4, 3))
  assert parameters(encoding) == encoding.layers()
  if isinstance(operation, PathBased):
    assert encoding.layers() == (4 + 3) * (2 * DIM * 3 + 3 + DIM)


def test_a_projection_is_a_matrix():
  encoding = Projected(Table('t', 10, 4), DIM)
  assert parameters(encoding) == encoding.layers() == 4 * DIM


def parameters(encoding):
  collection = EmbeddingCollection((Feature('x', encoding),))
  params = Encoder(collection).init(
    jax.random.key(0), collection.empty_vectors(), jnp.zeros((1, 1), jnp.int32)
  )
  return sum(x.size for x in jax.tree.leaves(params))


ALL = {
  'mult': composed(Mult()),
  'add': composed(Add()),
  'concat': composed(Concat()),
  'path': composed(PathBased(5)),
  'path of three': composed(PathBased(5), (3, 2, 2)),
  'train': composed(TensorTrain(2)),
  'projected': Projected(Table('t', 12, 4), DIM),
}


@pytest.mark.slow
@pytest.mark.parametrize('hotness', [1, 3])
@pytest.mark.parametrize('name', ALL)
def test_ids_that_are_not_there_are_zeros_and_learn_nothing(name, hotness):
  feature = Feature('x', ALL[name], hotness)
  collection = EmbeddingCollection((feature,))
  ids = jnp.array([[PAD] * hotness, [11] + [PAD] * (hotness - 1)], jnp.int32)
  tables = collection.init(jax.random.key(0))
  vectors = collection.lookup(tables, collection.rows(ids))
  model = Encoder(collection)
  params = with_biases(model.init(jax.random.key(1), vectors, ids))

  def encoded(params, vectors):
    return model.apply(params, vectors, ids)

  made = encoded(params, vectors)
  np.testing.assert_array_equal(made[0], 0)
  assert np.abs(made[1]).max() > 0
  # Nothing of an example of no ids reaches the layers.
  only_first = jax.grad(lambda p: jnp.sum(encoded(p, vectors)[0]))(params)
  for g in jax.tree.leaves(only_first):
    np.testing.assert_array_equal(g, 0)
  # More ids that are not there change nothing.
  alone = EmbeddingCollection((Feature('x', ALL[name]),))
  found = alone.lookup(alone.init(jax.random.key(0)), alone.rows(ids[1:, :1]))
  want = Encoder(alone).apply(params, found, ids[1:, :1])
  np.testing.assert_allclose(made[1:], want, rtol=1e-5, atol=1e-6)


def with_biases(params):
  """Biases that are not 0, as after training."""
  return jax.tree.map(lambda x: x + 0.25, params)


@pytest.mark.parametrize(
  ('operation', 'dim', 'parts', 'message'),
  [
    (Concat(), 16, 3, r'width 16 .* cannot be cut into 3 equal parts'),
    (PathBased(4), 16, 1, '1 partition: a path needs 2 or more'),
    (TensorTrain(4), 16, 1, '1 partition: a tensor train needs 2 or more'),
  ],
)
def test_impossible_widths_are_refused(operation, dim, parts, message):
  with pytest.raises(InputError, match=message):
    operation.widths(dim, parts)


def test_features_of_one_encoding_share_its_layers():
  encoding = ALL['path']
  both = tuple(Feature(name, encoding, 2) for name in 'ab')
  collection = EmbeddingCollection(both)
  ids = jnp.array([[1, 2, 2, 1]], jnp.int32)
  init = functools.partial(Encoder(collection).init, jax.random.key(0))
  tables = collection.init(jax.random.key(0))
  vectors = collection.lookup(tables, collection.rows(ids))
  params = init(vectors, ids)
  assert sum(x.size for x in jax.tree.leaves(params)) == encoding.layers()
  made = Encoder(collection).apply(params, vectors, ids)
  np.testing.assert_allclose(made[0, 0], made[0, 1], rtol=1e-5, atol=1e-6)
