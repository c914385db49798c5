"""Rows of fewer bits: which numbers they keep, and how they are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.embedding.bags import Bags, Group, pull
from dlrm_jax.embedding.low_precision import (
  BFLOAT16,
  FLOAT16,
  INT2,
  INT4,
  INT8,
  STORAGES,
  storage_named,
)
from dlrm_jax.errors import InputError
from dlrm_jax.quantization import fbgemm

CODES = INT8, INT4, INT2
LOW = FLOAT16, BFLOAT16, *CODES


def rows(kind, count, dim, seed=0):
  """Rows f32[count, dim] of a kind."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(count, dim))
  if kind == 'wide':
    x = x * 10.0 ** rng.uniform(-8, 4, (count, 1))
  elif kind == 'constant':
    x = np.repeat(x[:, :1], dim, 1)
  elif kind == 'nearly constant':
    x = x[:, :1] + 1e-6 * x
  elif kind == 'narrow':
    x = 3 + 0.02 * x
  elif kind == 'tiny':
    x = 1e-7 * x
  elif kind == 'zeros':
    x = 0 * np.abs(x)
  return x.astype(np.float32)


def as_fbgemm(kept):
  """Kept rows as the bytes of FBGEMM's layout `fused`, u8[R, W]."""
  line = np.ascontiguousarray(kept['line']).view(np.uint8)
  return np.concatenate([np.asarray(kept['codes']), line], -1)


KINDS = (
  'usual',
  'wide',
  'constant',
  'nearly constant',
  'narrow',
  'tiny',
  'zeros',
)


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('storage', CODES, ids=lambda s: s.name)
def test_codes_are_those_of_fbgemm(storage, kind, compiled):
  encode = lambda values: storage.encode(values, None)  # noqa: E731
  for dim in (4, 20, 64):
    x = rows(kind, 500, dim)
    kept = (jax.jit(encode) if compiled else encode)(x)
    np.testing.assert_array_equal(
      as_fbgemm(jax.tree.map(np.asarray, kept)),
      fbgemm.pack(x, storage.bits, 'fused'),
    )
    np.testing.assert_allclose(
      storage.decode(kept, dim),
      fbgemm.unpack(as_fbgemm(kept), dim, storage.bits, 'fused'),
      rtol=1e-6,
      atol=1e-6 * np.abs(x).max(),
    )


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_halves_are_rounded_to_the_nearest_even(dtype):
  x = np.concatenate([rows(k, 50, 8) for k in KINDS])
  storage = storage_named(dtype)
  got = storage.decode(storage.encode(x, None), 8)
  np.testing.assert_array_equal(got, x.astype(jnp.dtype(dtype)).astype('f4'))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('storage', LOW, ids=lambda s: s.name)
def test_random_rounding_is_right_on_average(storage, kind):
  """The mean of n roundings is within 5 standard errors of the value."""
  x, n = rows(kind, 4, 8), 4096
  bits = jax.random.bits(jax.random.key(1), (n, *x.shape))
  many = jnp.broadcast_to(x, (n, *x.shape))
  got = np.asarray(storage.decode(storage.encode(many, bits), 8), np.float64)
  low, high = got.min(0), got.max(0)
  slack = 1e-6 * np.abs(x).max(1, keepdims=True)  # numbers are of float32
  # What has a chance of less than 10 in n may never be drawn.
  slack = slack + 10 / n * (high - low).max(1, keepdims=True)
  assert (low <= x + slack).all()
  assert (high >= x - slack).all()
  error = (high - low) / 2 / n**0.5
  assert (np.abs(got.mean(0) - x) <= 5 * error + slack).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([FLOAT16, BFLOAT16]))
def test_numbers_that_a_storage_has_stay_whatever_the_noise(noise, storage):
  x = storage.decode(storage.encode(rows('usual', 3, 8), None), 8)
  bits = jnp.full(x.shape, noise, jnp.uint32)
  np.testing.assert_array_equal(storage.decode(storage.encode(x, bits), 8), x)


@pytest.mark.parametrize('storage', STORAGES.values(), ids=STORAGES)
def test_kept_zeros_are_zeros(storage):
  zeros = jax.tree.map(
    lambda leaf: jnp.zeros((3, *leaf.shape), leaf.dtype), storage.leaves(8)
  )
  assert not np.asarray(storage.decode(zeros, 8)).any()


@pytest.mark.parametrize('storage', LOW, ids=lambda s: s.name)
def test_a_lookup_makes_no_table_of_float32(storage):
  """XLA would turn a whole table of bfloat16 to float32 to read some rows."""
  kept = jax.eval_shape(lambda x: storage.encode(x, None), jnp.zeros((5000, 8)))
  bags = Bags(jnp.zeros((16, 6), jnp.int32), None)

  def lookup(tree, bags):
    return pull(tree, bags, (Group(2, 3),), 8, storage)

  text = jax.jit(lookup).lower(kept, bags).compile().as_text()
  assert 'f32[16,2,8]' in text
  assert 'f32[5000,8]' not in text


@pytest.mark.parametrize(('storage', 'dim'), [(INT4, 5), (INT2, 6)])
def test_widths_that_fill_no_whole_bytes_are_refused(storage, dim):
  with pytest.raises(InputError, match=f'width {dim} cannot be kept as int'):
    storage.leaves(dim)


def test_an_unknown_storage_is_refused():
  with pytest.raises(InputError, match='kept as int3; expected one of float32'):
    storage_named('int3')
