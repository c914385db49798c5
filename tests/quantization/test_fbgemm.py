"""The bytes of rows, and the values in them, are FBGEMM's, bit for bit.

The goldens are fbgemm-gpu-cpu 1.8.0's; so are the numbers written out here.
"""

import itertools
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlrm_jax.errors import InputError
from dlrm_jax.quantization.fbgemm import pack, row_bytes, unpack

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens'
TABLES = 'normal', 'constant', 'outlier', 'tiny', 'zeros'
FORMS = [
  *((bits, 'fused') for bits in (8, 4, 2)),
  *((bits, 'fused_half') for bits in (8, 4, 2)),
  *((bits, 'serving') for bits in (16, 8, 4, 2)),
]
CODED = [form for form in FORMS if form != (16, 'serving')]
HALF = [form for form in CODED if form != (8, 'fused')]


@pytest.fixture(scope='module')
def fused():
  with np.load(GOLDENS / 'fbgemm_rowwise_quantization.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def serving():
  with np.load(GOLDENS / 'fbgemm_serving_tables.npz') as file:
    return dict(file)


def assert_same_bits(found, wanted):
  assert found.dtype == wanted.dtype
  np.testing.assert_array_equal(
    np.ascontiguousarray(found).view(np.uint8),
    np.ascontiguousarray(wanted).view(np.uint8),
  )


def numbers_of(packed, bits, layout):
  """Scales and biases as they are kept, [R] each."""
  if (bits, layout) == (8, 'fused'):
    return packed[:, -8:].copy().view('<f4').T
  kept = packed[:, :4] if layout == 'serving' else packed[:, -4:]
  return kept.copy().view('<f2').T


def row(*values):
  return np.array([values], np.float32)


@pytest.mark.parametrize('bits', [8, 4, 2])
@pytest.mark.parametrize('table', TABLES)
def test_fused_rows_are_those_of_the_program(fused, table, bits):
  values = fused[f'{table}/float']
  packed = fused[f'{table}/int{bits}_fused']
  assert_same_bits(pack(values, bits, 'fused'), packed)
  found = unpack(packed, values.shape[1], bits, 'fused')
  assert_same_bits(found, fused[f'{table}/int{bits}_dequantized'])


@pytest.mark.parametrize('table', range(3))
@pytest.mark.parametrize('bits', [16, 8, 4, 2])
def test_serving_rows_are_those_of_the_program(serving, table, bits):
  name = 'fp16' if bits == 16 else f'int{bits}'
  packed = pack(serving[f'table{table}'], bits, 'serving')
  assert_same_bits(packed, serving[f'{name}_bytes{table}'])


@pytest.mark.parametrize('bits', [16, 8, 4, 2])
def test_serving_rows_add_up_to_the_bags_of_the_program(serving, bits):
  name = 'fp16' if bits == 16 else f'int{bits}'
  indices, offsets = serving['indices'], serving['offsets']
  batch = (len(offsets) - 1) // 3
  for table in range(3):
    rows = unpack(serving[f'{name}_bytes{table}'], 16, bits, 'serving')
    starts = offsets[table * batch : (table + 1) * batch + 1]
    found = [rows[indices[a:b]].sum(0) for a, b in itertools.pairwise(starts)]
    wanted = serving[f'{name}_sum'][:, table * 16 : (table + 1) * 16]
    size = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * size)


def test_a_scale_is_negative_where_the_rounded_bias_is_above_all_values():
  packed = pack(np.full((1, 8), -1.1, np.float32), 8, 'fused_half')
  assert packed[0, :8].tolist() == [252] * 8
  scale, bias = numbers_of(packed, 8, 'fused_half')
  assert (scale, bias) == (-1.5497207641601562e-06, -1.099609375)


def test_eight_bits_of_serving_are_counted_before_scales_are_rounded():
  values = row(*(1.1, 1.10001) * 4)
  serving = pack(values, 8, 'serving')
  assert_same_bits(serving[:, 4:], pack(values, 8, 'fused')[:, :8])
  half = pack(values, 8, 'fused_half')
  assert half[0, :8].tolist() == [252, 255] * 4
  assert serving[0, 4:].tolist() == [0, 255] * 4


def test_small_ranges_do_not_reach_the_greatest_code():
  packed = pack(row(0, 1e-9, 5e-10), 8, 'fused')
  assert packed[0, :3].tolist() == [0, 23, 12]


@pytest.mark.parametrize(('dim', 'first'), [(7, 0), (16, 8), (20, 8), (24, 16)])
def test_a_bias_of_zero_has_the_sign_of_the_first_zero_that_is_met(dim, first):
  for sign in (-1, 1):
    values = np.full((1, dim), -sign * 0.0, np.float32)
    values[0, first] = sign * 0.0
    packed = pack(values, 8, 'fused')
    scale, bias = numbers_of(packed, 8, 'fused')
    assert np.signbit(bias) == (sign < 0)
    assert not np.signbit(scale)


def test_columns_that_fill_no_register_are_rounded_twice():
  # 3 * scale is a tie of float32; the bias makes it a little less than one.
  numbers = np.array([[(2**23 + 1) * 2.0**-30, -(2.0**-60)]], '<f4')
  packed = np.concatenate(
    [np.full((1, 12), 3, np.uint8), numbers.view(np.uint8)], 1
  )
  found = unpack(packed, 12, 8, 'fused') * 2.0**30
  assert found.tolist() == [[25165826.0] * 8 + [25165828.0] * 4]


def test_codes_share_bytes_and_the_first_has_the_lowest_bits():
  values = row(0, 1, 2, 3)
  assert pack(values, 2, 'fused')[0, 0] == 0b11100100
  assert pack(5 * values, 4, 'serving')[0, 4:].tolist() == [0x50, 0xFA]


values_near_a_base = st.builds(
  lambda noise, base, tens: (base + noise * 10.0**tens).astype(np.float32),
  hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 12, 20])),
    elements=st.floats(-1, 1),
  ),
  st.sampled_from([0, 1e-3, 1]).flatmap(lambda most: st.floats(-most, most))
  | st.floats(-5e4, 5e4),
  st.integers(-12, 4),
)


@given(values_near_a_base, st.sampled_from(CODED))
def test_values_come_back_within_half_a_step(values, form):
  bits, layout = form
  packed = pack(values, bits, layout)
  scale, bias = numbers_of(packed, bits, layout)
  of_scale, of_bias = (
    np.spacing(np.abs(x)).astype(np.float64) / 2 for x in (scale, bias)
  )
  step = np.abs(scale).astype(np.float64) / 2
  bound = step + 2**bits * of_scale + of_bias + 1e-8
  found = unpack(packed, values.shape[1], bits, layout)
  error = np.abs(found.astype(np.float64) - values).max(1)
  assert (error <= bound + 1e-6 * np.abs(values).max(1)).all()


@given(values_near_a_base, st.sampled_from(FORMS))
def test_a_row_depends_on_no_other_row(values, form):
  bits, layout = form
  alone = [pack(values[i : i + 1], *form) for i in range(len(values))]
  packed = pack(values, *form)
  assert_same_bits(packed, np.concatenate(alone))
  assert packed.shape[1] == row_bytes(values.shape[1], bits, layout)


@pytest.mark.parametrize(('bits', 'layout'), FORMS)
def test_a_table_may_lie_in_any_order(bits, layout):
  values = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
  packed = pack(values.T, bits, layout)
  assert_same_bits(packed, pack(values.T.copy(), bits, layout))
  found = unpack(np.asfortranarray(packed), 8, bits, layout)
  assert_same_bits(found, unpack(packed, 8, bits, layout))


@pytest.mark.parametrize(('bits', 'layout'), FORMS)
def test_a_table_may_have_no_rows(bits, layout):
  packed = pack(np.zeros((0, 8), np.float32), bits, layout)
  assert packed.shape == (0, row_bytes(8, bits, layout))
  assert unpack(packed, 8, bits, layout).shape == (0, 8)


@pytest.mark.parametrize(('bits', 'layout'), FORMS)
@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(wrong, bits, layout):
  values = np.ones((3, 8), np.float32)
  values[1, 6] = wrong
  with pytest.raises(
    InputError, match=f'row 1, column 6: the value is {wrong}'
  ):
    pack(values, bits, layout)


@pytest.mark.parametrize(('bits', 'layout'), FORMS)
def test_a_range_beyond_float32_is_refused(bits, layout):
  values = np.zeros((3, 4), np.float32)
  values[2] = -3e38, 3e38, 0, 1
  with pytest.raises(InputError, match='row 2'):
    pack(values, bits, layout)


@pytest.mark.parametrize(('bits', 'layout'), HALF)
@pytest.mark.parametrize('values', [(-7e4, -7e4), (0, 3e7)])
def test_what_float16_cannot_have_is_refused(values, bits, layout):
  with pytest.raises(InputError, match=r'row 0: values from .* float16'):
    pack(row(*values, *values), bits, layout)
  assert pack(row(*values), 8, 'fused').shape == (1, 10)


def test_a_value_that_float16_cannot_have_is_refused():
  with pytest.raises(InputError, match='row 0, column 1: the value is 70000'):
    pack(row(1, 7e4), 16, 'serving')


@pytest.mark.parametrize(
  ('dim', 'bits', 'layout', 'words'),
  [
    (8, 8, 'rows', 'expected one of fused, fused_half, serving'),
    (8, 3, 'fused', 'expected one of 8, 4, 2'),
    (8, 16, 'fused', 'expected one of 8, 4, 2'),
    (8, 32, 'serving', 'expected one of 16, 8, 4, 2'),
    (5, 4, 'fused', 'a positive multiple of 2'),
    (6, 2, 'serving', 'a positive multiple of 4'),
    (0, 8, 'fused', 'a positive multiple of 1'),
  ],
)
def test_rows_that_no_layout_has_are_refused(dim, bits, layout, words):
  for refused in (
    lambda: row_bytes(dim, bits, layout),
    lambda: pack(np.zeros((2, dim), np.float32), bits, layout),
    lambda: unpack(np.zeros((2, 12), np.uint8), dim, bits, layout),
  ):
    with pytest.raises(InputError, match=words):
      refused()


@pytest.mark.parametrize(('bits', 'layout'), FORMS)
def test_rows_of_another_width_are_refused(bits, layout):
  width = row_bytes(8, bits, layout)
  for other in (width - 1, width + 4):
    with pytest.raises(InputError, match=f'rows of {other} bytes: .* {width}'):
      unpack(np.zeros((2, other), np.uint8), 8, bits, layout)


@pytest.mark.parametrize(
  ('array', 'words'),
  [
    (np.zeros((2, 8)), r'are float64 of shape \(2, 8\)'),
    ([[1.0, 2.0]], r'are float64 of shape \(1, 2\)'),
    (np.zeros((2, 16), np.int32), r'are int32 of shape \(2, 16\)'),
    (np.zeros(8, np.float32), r'are float32 of shape \(8,\)'),
    (np.zeros(16, np.uint8), r'are uint8 of shape \(16,\)'),
  ],
)
def test_what_is_no_table_is_refused(array, words):
  with pytest.raises(InputError, match=f'values {words}; expected float32'):
    pack(array, 8, 'fused')
  with pytest.raises(InputError, match=f'rows {words}; expected uint8'):
    unpack(array, 8, 8, 'fused')


def drawn_tables(rng, rows, dim):
  """Tables of many kinds, within what float16 has: f32[rows, dim]."""
  noise = rng.standard_normal((rows, dim))
  base = rng.standard_normal((rows, 1))
  tens = 10.0 ** rng.uniform(-12, 3, (rows, 1))
  zeros = rng.choice([-0.0, 0.0], (rows, dim))
  yield noise
  yield noise * tens
  yield base * tens + 0 * noise
  yield base * (1 + noise * 10.0 ** rng.uniform(-9, -2, (rows, 1)))
  yield base + 1e-9 * noise
  yield np.where(rng.random((rows, dim)) < 0.1, 1e4, 1) * noise
  yield rng.uniform(-6e4, 6e4, (rows, dim))
  yield noise * 10.0 ** rng.uniform(-44, -36, (rows, 1))
  yield np.where(noise > 1, noise, zeros)
  yield zeros
  yield base + 0.5 * rng.integers(0, 31, (rows, dim))


def operators():
  """FBGEMM's, where they can be loaded."""
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  try:
    import fbgemm_gpu  # noqa: F401
  except (ImportError, OSError) as error:
    why = ' '.join(str(error).split())
    pytest.skip(f'FBGEMM is not there for torch {torch.__version__}: {why}')
  return torch.ops.fbgemm


@pytest.mark.slow
@pytest.mark.parametrize('dim', [1, 2, 6, 8, 12, 15, 16, 20, 24, 40, 64, 100])
def test_drawn_rows_are_those_of_the_installed_program(dim):
  theirs = operators()
  import torch

  for drawn in drawn_tables(np.random.default_rng(dim), 5000, dim):
    values = drawn.astype(np.float32)
    table = torch.from_numpy(values)
    packed = theirs.FloatToFused8BitRowwiseQuantized(table)
    assert_same_bits(pack(values, 8, 'fused'), packed.numpy())
    found = unpack(packed.numpy(), dim, 8, 'fused')
    wanted = theirs.Fused8BitRowwiseQuantizedToFloat(packed)
    assert_same_bits(found, wanted.numpy())
    for bits in (8, 4, 2):
      if dim * bits % 16:
        continue  # refused there
      packed = theirs.FloatToFusedNBitRowwiseQuantizedSBHalf(table, bits)
      assert_same_bits(pack(values, bits, 'fused_half'), packed.numpy())
      found = unpack(packed.numpy(), dim, bits, 'fused_half')
      wanted = theirs.FusedNBitRowwiseQuantizedSBHalfToFloat(packed, bits)
      assert_same_bits(found, wanted.numpy())
