"""Kernels pruned in blocks, at once and in training."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from dlrm_jax.errors import InputError
from dlrm_jax.optim.block import Block, read_block
from dlrm_jax.optim.pruning import (
  Gradual,
  Pruning,
  kernels_of,
  prune_gradually,
  pruned,
)
from tests import family


def by_loops(kernel, pruning):
  """The kernel without its least blocks, block by block."""
  kernel = kernel.copy()
  rows, columns = pruning.block
  places = itertools.product(
    range(0, len(kernel), rows), range(0, kernel.shape[1], columns)
  )
  blocks = [kernel[i : i + rows, j : j + columns] for i, j in places]
  blocks.sort(key=lambda x: np.mean(np.float64(x) ** 2))
  for block in blocks[: int(np.float32(pruning.sparsity) * len(blocks))]:
    block[:] = 0
  return kernel


@settings(max_examples=12)
@given(
  shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
  block=st.tuples(st.integers(1, 50), st.integers(1, 50)),
  sparsity=st.floats(0, 0.99),
)
def test_the_least_blocks_go(shape, block, sparsity):
  kernel = np.float32(np.random.default_rng(0).normal(size=shape))
  pruning = Pruning(sparsity, Block(*block))
  found = pruned(jnp.asarray(kernel), pruning)
  np.testing.assert_array_equal(found, by_loops(kernel, pruning))
  assert np.any(found)  # a block is left


def test_what_is_pruned_stays_so():
  kernel = jnp.asarray(np.random.default_rng(0).normal(size=(30, 33)))
  kernel = kernel.astype(jnp.float32)
  once = pruned(kernel, Pruning(0.8, Block(2, 8)))
  np.testing.assert_array_equal(pruned(once, Pruning(0.8, Block(2, 8))), once)
  np.testing.assert_array_equal(pruned(once, Pruning(0.5, Block(2, 8))), once)


@pytest.mark.parametrize(
  'text', ['8by1', '8', 'x', '0x1', '8x-1', '8x1x1', '1.5x2', '']
)
def test_a_block_is_rows_and_columns(text):
  message = f'--block is {text!r}; expected rows and columns .* as in 8x1'
  with pytest.raises(InputError, match=message):
    read_block('--block', text)


def params_of(seed=0):
  random = np.random.default_rng(seed)

  def drawn(*shape):
    return jnp.asarray(random.normal(size=shape), jnp.float32)

  return {
    'model': {
      'top': {'kernel': drawn(20, 16), 'bias': drawn(16)},
      'out': {'kernel': drawn(16, 1), 'bias': drawn(1)},
    },
    'encoder': {'kernel': drawn(8, 8)},
  }


def trained(tx, params, state, updates):
  """Parameters after each update, by gradients that differ each time."""
  step = jax.jit(tx.update)
  for k in updates:
    changes, state = step(params_of(k + 1), state, params)
    params = optax.apply_updates(params, changes)
    yield params, state


WHEN = Gradual(start=5, steps=10, every=4)
PRUNING = Pruning(0.75, Block(1, 4))
TX = optax.chain(optax.sgd(0.05), prune_gradually(PRUNING, WHEN))


def test_sparsity_grows_as_the_cube_says():
  params, shares, before = params_of(), [], None
  for found, _ in trained(TX, params, TX.init(params), range(30)):
    kernel = np.asarray(found['model']['top']['kernel'])
    zeros = (kernel.reshape(20, 4, 4) == 0).all(2)
    assert zeros.sum() * 4 == (kernel == 0).sum()  # whole blocks
    assert before is None or (zeros >= before).all()  # and they stay so
    before = zeros
    shares.append(zeros.mean())
  at = {5: 0.0, 9: 0.75 * (1 - 0.6**3), 13: 0.75 * (1 - 0.2**3)}
  at[17] = 0.75
  for k, share in at.items():
    assert shares[k - 1] == np.floor(share * 80) / 80
  for k in range(1, 31):
    last = max((i for i in at if i <= k), default=0)
    assert shares[k - 1] == (shares[last - 1] if last else 0)


def test_all_else_moves_as_without_it():
  params, plain = params_of(), optax.sgd(0.05)
  (*_, (mine, _)) = trained(TX, params, TX.init(params), range(20))
  (*_, (theirs, _)) = trained(plain, params, plain.init(params), range(20))
  kernel = mine['model']['top'].pop('kernel')
  other = theirs['model']['top'].pop('kernel')
  jax.tree.map(np.testing.assert_array_equal, mine, theirs)
  kept = np.asarray(kernel) != 0
  np.testing.assert_array_equal(kernel[kept], other[kept])
  assert kernels_of(params_of()).keys() == {'model/top/kernel'}


def test_it_goes_on_bit_by_bit():
  params = params_of()
  found = list(trained(TX, params, TX.init(params), range(20)))
  for at in (3, 4, 9, 12):
    (*_, (again, _)) = trained(TX, *found[at], range(at + 1, 20))
    jax.tree.map(np.testing.assert_array_equal, again, found[-1][0])


def test_without_steps_all_goes_at_once():
  tx = prune_gradually(PRUNING, Gradual(start=2, steps=0, every=100))
  params = params_of()
  shares = [
    float(np.mean(np.asarray(x['model']['top']['kernel']) == 0))
    for x, _ in trained(tx, params, tx.init(params), range(3))
  ]
  assert shares == [0, 0.75, 0.75]


FIELDS = {
  'train.pruning.sparsity': 0.5,
  'train.pruning.block': '2x2',
  'train.pruning.start': 1,
  'train.pruning.every': 1,
}


def test_devices_prune_alike():
  task = family.task_of('dlrm', FIELDS)
  of_one, of_many = (family.learned('dlrm', task, n) for n in (1, 8))
  family.assert_close(of_many, of_one)
  for name, kernel in kernels_of(of_one[1]).items():
    rows, columns = -(-kernel.shape[0] // 2), -(-kernel.shape[1] // 2)
    assert np.sum(kernel == 0) >= rows * columns // 2, name
    np.testing.assert_array_equal(
      kernel == 0, kernels_of(of_many[1])[name] == 0
    )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'sparsity': 1.0}, 'sparsity is 1.0; expected a share from 0, less than'),
    ({'sparsity': -0.1}, 'sparsity is -0.1; expected a share'),
    ({'block': '2by2'}, "pruning.block is '2by2'; expected rows and columns"),
    ({'every': 0}, 'pruning.every is 0'),
    ({'start': 0}, 'pruning.start is 0'),
  ],
)
def test_wrong_fields_are_refused(fields, message):
  fields = {f'train.pruning.{k}': x for k, x in fields.items()}
  with pytest.raises(InputError, match=message):
    family.task_of('dlrm', FIELDS | fields)


def test_rates_that_fall_are_refused_beside_it():
  with pytest.raises(InputError, match='patience is 2; expected one'):
    family.task_of('dlrm', FIELDS | {'train.plateau.patience': 2})
