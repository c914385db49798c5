"""Products of 64-bit integers: exact, by the kernel and by digits."""

import contextlib
import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from jax.sharding import SingleDeviceSharding

from dlrm_jax import native
from dlrm_jax.cluster import agreement
from dlrm_jax.errors import InputError
from dlrm_jax.plan import chips
from dlrm_jax.quantization import int64_matmul
from dlrm_jax.quantization.int64 import BLOCK, by_digits
from tests.absent_chips import needs_compiler

LEAST, LARGEST = -(2**63), 2**63 - 1
# All its digits are -128.
LOWEST_DIGITS = 2**64 - 0x8080808080808080
WAYS = {'kernel': contextlib.nullcontext, 'digits': native.left_out}
INTEGERS = strategies.one_of(
  strategies.integers(LEAST, LARGEST),
  strategies.sampled_from(
    [0, 1, -1, LEAST, LARGEST, 2**31, -(2**31), 127, 128, -128, -129]
  ),
)


@pytest.fixture(params=WAYS)
def way(request):
  """Either way; where there is no kernel, both are the same."""
  with WAYS[request.param]():
    yield request.param


def wrapped(a, b):
  """The product, with Python's integers."""
  exact = a.astype(object) @ b.astype(object)
  return ((exact - LEAST) % 2**64 + LEAST).astype(np.int64)


def drawn(*shape, seed=0):
  chance = np.random.default_rng(seed)
  return chance.integers(LEAST, LARGEST, shape, endpoint=True)


def check(a, b):
  got = int64_matmul(a, b)
  assert type(got) is np.ndarray
  assert got.dtype == np.int64
  np.testing.assert_array_equal(got, wrapped(a, b))


@pytest.mark.parametrize(
  ('m', 'k', 'n'),
  [
    *((1, 1, 1), (1, 1, 9), (5, 1, 3), (1, 7, 1), (4, 8, 8), (3, 2, 17)),
    *((131, 3, 11), (7, 300, 5), (9, 513, 2)),
  ],
)
def test_products_are_exact(m, k, n, way):
  check(drawn(m, k), drawn(k, n, seed=1))


@pytest.mark.parametrize('x', [0, 1, -1, LEAST, LARGEST, LOWEST_DIGITS])
@pytest.mark.parametrize('y', [0, 1, -1, LEAST, LARGEST, LOWEST_DIGITS])
def test_extremes_wrap_around(x, y, way):
  check(np.full((2, 3), x), np.full((3, 2), y))


@pytest.mark.parametrize(
  ('m', 'k', 'n'), [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)]
)
def test_empty_matrices(m, k, n, way):
  check(drawn(m, k), drawn(k, n))


@hypothesis.given(
  arrays.arrays(np.int64, (2, 4), elements=INTEGERS),
  arrays.arrays(np.int64, (4, 3), elements=INTEGERS),
)
def test_any_integers(a, b):
  for context in WAYS.values():
    with context():
      check(a, b)


@pytest.mark.parametrize('k', [BLOCK - 1, BLOCK, BLOCK + 1, 133_145])
def test_sums_of_the_lowest_digits_do_not_overflow(k, way):
  check(np.full((1, k), LOWEST_DIGITS), np.full((k, 1), LOWEST_DIGITS))


def test_a_longer_block_would_overflow():
  # A product is 2^14, and those of eight pairs of digits are added.
  assert BLOCK * 8 * 2**14 < 2**31
  assert (BLOCK + 128) * 8 * 2**14 >= 2**31


@pytest.mark.parametrize('block', [1, 2, 5])
def test_digits_in_several_blocks(block):
  a, b = drawn(3, 5), drawn(5, 2, seed=1)
  words = jax.jit(functools.partial(by_digits, block=block))(
    a.view(np.uint32), b.view(np.uint32)
  )
  got = np.asarray(words).view(np.int64)
  np.testing.assert_array_equal(got, wrapped(a, b))


def test_matrices_that_do_not_lie_row_by_row(way):
  check(drawn(4, 5).T, drawn(8, 9, seed=1)[::2, ::-3])
  check(np.asfortranarray(drawn(5, 4)), drawn(4, 3)[::-1])


def test_results_can_be_written():
  assert int64_matmul(drawn(1, 1), drawn(1, 1)).flags.writeable


def test_arrays_of_jax(way):
  a, b = drawn(3, 5), drawn(5, 2)
  with agreement._64_bits():
    for x, y in ((jnp.array(a), jnp.array(b)), (a, jnp.array(b))):
      for product in (int64_matmul, jax.jit(int64_matmul)):
        got = product(x, y)
        assert isinstance(got, jax.Array)
        assert got.dtype == jnp.int64
        np.testing.assert_array_equal(got, wrapped(a, b))


@pytest.mark.skipif(not native.in_use(), reason='no native kernels')
def test_programs_have_the_kernel_unless_it_is_left_out():
  with agreement._64_bits():
    a = jax.ShapeDtypeStruct((4, 4), jnp.int64)
    text = jax.jit(int64_matmul).lower(a, a).as_text()
    with native.left_out():
      other = jax.jit(lambda *x: int64_matmul(*x)).lower(a, a).as_text()
  assert ('dlrm_jax_multiply' in text, 'dot_general' in text) == (True, False)
  assert ('dlrm_jax_multiply' in other, 'dot_general' in other) == (False, True)


_DOT = re.compile(
  r'dot_general .*\(tensor<(\S+)xi8>, tensor<(\S+)xi8>\) -> tensor<(\S+)xi32>'
)


def test_digits_are_multiplied_as_bytes_36_pairs_of_them():
  m, k, n = 5, 7, 3
  shapes = [
    jax.ShapeDtypeStruct(s, jnp.uint32) for s in ((m, 2 * k), (k, 2 * n))
  ]
  text = jax.jit(by_digits).lower(*shapes).as_text()
  lines = [x for x in text.splitlines() if 'dot_general ' in x]
  found = [_DOT.search(x).groups() for x in lines]
  pairs = range(8, 0, -1)
  assert found == [(f'{m}x{p}x{k}', f'{p}x{k}x{n}', f'{m}x{n}') for p in pairs]
  assert sum(pairs) == 36
  assert 'multiply' not in text
  assert not re.search(r'x(i64|ui64|f\d+|bf16)>', text)


@needs_compiler
@pytest.mark.slow
def test_tpus_multiply_bytes():
  sharding = SingleDeviceSharding(chips.find_devices('v5e:1x1')[0])
  words = jax.ShapeDtypeStruct((256, 512), jnp.uint32, sharding=sharding)
  text = jax.jit(by_digits).lower(words, words).compile().as_text()
  dtypes = dict(re.findall(r'%([\w.-]+) = (\w+)\[', text))
  # Names of operands, and of the parameters of fusions, have a type each.
  dtypes |= dict(re.findall(r'([\w.-]+): (\w+)\[', text))
  products = re.findall(
    r' = (\w+)\[\S* (?:convolution|dot)\(%([\w.-]+), %([\w.-]+)\)', text
  )
  assert len(products) == 8
  for result, *operands in products:
    assert [dtypes[x] for x in operands] == ['s8', 's8']
    assert result == 's32'


@pytest.mark.parametrize(
  ('a', 'b', 'said'),
  [
    ([[1]], drawn(1, 1), 'a is a list; expected an array of NumPy or JAX'),
    (drawn(1, 1), drawn(1), r'b has shape \(1,\); expected a matrix'),
    (drawn(1, 1).astype(np.int32), drawn(1, 1), 'a has dtype int32; .* int64'),
    (drawn(1, 1), drawn(1, 1).view(np.uint64), 'b has dtype uint64'),
    (drawn(1, 1).astype('>i8'), drawn(1, 1), 'a has dtype >i8'),
    (
      drawn(2, 3),
      drawn(2, 4),
      r'a has shape \(2, 3\) and b \(2, 4\); expected \[M, K\] and \[K, N\]',
    ),
  ],
)
def test_what_is_no_product_is_refused(a, b, said):
  with pytest.raises(InputError, match=f'^int64_matmul: {said}'):
    int64_matmul(a, b)


def test_arrays_of_jax_of_32_bits_are_refused():
  with pytest.raises(InputError, match=r'b has dtype int32.*jax_enable_x64'):
    int64_matmul(drawn(1, 1), jnp.ones((1, 1), jnp.int32))
