"""Rows of torchrec's quantised tables; no PyTorch is needed.

The goldens are tables of FBGEMM's kernel for inference, without padding.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.convert.packed import (
  STORAGES,
  PackedTable,
  Rounding,
  aligned,
  fitting,
  round_lines,
  row_bytes,
  used,
  views,
)
from dlrm_jax.embedding.low_precision import FLOAT16, INT2, INT4, INT8
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.errors import InputError
from dlrm_jax.quantization import fbgemm
from tests.convert.models import GOLDENS

NAMES = {INT8: 'int8', INT4: 'int4', INT2: 'int2', FLOAT16: 'fp16'}
BITS = {INT8: 8, INT4: 4, INT2: 2, FLOAT16: 16}


@pytest.fixture(scope='module')
def serving():
  with np.load(GOLDENS / 'fbgemm_serving_tables.npz') as file:
    return dict(file)


def padded(rows):
  """Rows as torchrec aligns them."""
  more = aligned(rows.shape[1]) - rows.shape[1]
  return np.pad(rows, ((0, 0), (0, more)))


def drawn(rows, dim, seed=0):
  return np.random.default_rng(seed).normal(size=(rows, dim)).astype('f4')


def packed(values, storage):
  """Rows as torchrec makes them of values."""
  if storage == FLOAT32:
    return padded(values.view(np.uint8))
  if storage == INT8:
    fused = fbgemm.pack(values, 8, 'fused_half')
    return padded(np.concatenate([fused[:, -4:], fused[:, :-4]], 1))
  return padded(fbgemm.pack(values, BITS[storage], 'serving'))


@pytest.mark.parametrize('storage', NAMES)
@pytest.mark.parametrize('table', range(3))
def test_rows_of_the_kernel_are_read_as_their_values(serving, table, storage):
  rows = serving[f'{NAMES[storage]}_bytes{table}']
  wanted = fbgemm.unpack(rows, 16, BITS[storage], 'serving')
  assert rows.shape[1] == row_bytes(storage, 16)
  for there in (rows, padded(rows)):
    found = PackedTable('t', there, 16, (storage,))
    assert found.shape == (len(rows), 16)
    np.testing.assert_array_equal(found[:], wanted)
    np.testing.assert_array_equal(found[3:5], wanted[3:5])


@pytest.mark.parametrize('storage', [INT4, INT2, FLOAT16])
def test_the_bits_of_our_storages_are_views_of_rows(storage):
  values = drawn(5, 16)
  kept = storage.encode(values, None)
  rows = np.zeros((5, aligned(row_bytes(storage, 16))), np.uint8)
  into = views(rows, storage, 16)
  if isinstance(into, dict):
    for name, x in into.items():
      x[...] = kept[name]
  else:
    into[...] = kept
  np.testing.assert_array_equal(rows, packed(values, storage))


@pytest.mark.parametrize('dim', [8, 12, 16, 32, 64, 100, 128])
@pytest.mark.parametrize('storage', STORAGES)
def test_a_storage_is_known_by_the_width_of_rows_and_their_zeros(storage, dim):
  rows = packed(drawn(9, dim), storage)
  assert fitting(rows, dim)[0] == storage
  assert fitting(rows[:, : row_bytes(storage, dim)], dim)[0] == storage


def test_rows_that_no_storage_has_fit_none():
  rows = packed(drawn(9, 64), INT8)
  assert fitting(rows[:, :67], 64) == ()
  assert fitting(np.pad(rows, ((0, 0), (0, 16))), 64) == ()
  rows[4, -1] = 1  # where zeros should be
  assert used(rows) == 80
  assert fitting(rows, 64) == ()


def test_no_row_is_in_use_where_there_is_none():
  assert used(np.zeros((0, 16), np.uint8)) == 0
  assert used(np.zeros((3, 16), np.uint8)) == 0


def test_rows_of_four_values_may_be_codes_or_halves():
  rows = packed(drawn(9, 4), INT8)
  table = PackedTable('t', rows, 4, fitting(rows, 4))
  with pytest.raises(InputError, match=r't: rows of 16 bytes may be int8 or f'):
    table.check()
  dataclasses.replace(table, fits=(FLOAT16,)).check()


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
@pytest.mark.parametrize('place', [0, 2])
def test_a_scale_or_bias_that_is_not_finite_is_refused(place, wrong):
  rows = packed(drawn(9, 16), INT4)
  rows[7, place : place + 2] = np.array([wrong], '<f2').view(np.uint8)
  table = PackedTable('x.pt: t', rows, 16, (INT4,))
  with pytest.raises(InputError, match=rf'x\.pt: t: row 7 has .*{wrong}'):
    table.check()


def int8_rows(values):
  """(rows u8[R, W], lines f32[R, 2], values) of our storage."""
  kept = {k: np.asarray(x) for k, x in INT8.encode(values, None).items()}
  rows = np.zeros(
    (len(values), aligned(row_bytes(INT8, values.shape[1]))), 'u1'
  )
  views(rows, INT8, values.shape[1])['codes'][...] = kept['codes']
  return (
    rows,
    kept['line'].copy(),
    np.asarray(INT8.decode(kept, values.shape[1])),
  )


def test_scales_and_biases_that_float16_has_keep_all_bits():
  values = drawn(300, 16)
  rows = packed(values, INT8)
  table = PackedTable('t', rows, 16, (INT8,))
  lines = table.kept['line'][0:300]
  assert lines.dtype == np.float32
  again = rows.copy()
  again[:, :4] = 0
  assert round_lines(again, lines, 16, 't') == Rounding(0, 0)
  np.testing.assert_array_equal(again, rows)


rows_near_a_base = st.builds(
  lambda seed, base, tens: (base + drawn(3, 12, seed) * 10.0**tens).astype(
    'f4'
  ),
  st.integers(0, 1000),
  st.sampled_from([0, 1e-3, 1, -7, 1000]),
  st.floats(-9, 3),
)


@given(rows_near_a_base)
def test_other_scales_and_biases_are_rounded_within_the_bound(values):
  rows, lines, before = int8_rows(values)
  found = round_lines(rows, lines, 12, 't')
  table = PackedTable('t', rows, 12, (INT8,))
  error = np.abs(table[:] - before).max(1)
  step = np.abs(table.kept['line'][0:3][:, 0]) / 2
  of_bias = np.abs(before.min(1)) / 2048
  bound = np.maximum(np.maximum(step, of_bias), 255 * 2.0**-25)
  assert (error <= 1.001 * bound + 1e-6 * np.abs(before).max(1)).all()
  near = 1e-6 * float(np.abs(before).max())
  assert found.most == pytest.approx(float(error.max()), abs=near)
  assert found.rows <= len(values)
  lines = table.kept['line'][0:3]
  once = rows.copy()
  assert round_lines(rows, lines, 12, 't') == Rounding(0, 0)
  np.testing.assert_array_equal(rows, once)


def test_rows_that_are_rounded_have_the_codes_of_the_program():
  values = drawn(200, 16) * 1e-3 + 1
  rows, lines, before = int8_rows(values)
  found = round_lines(rows, lines, 16, 't')
  np.testing.assert_array_equal(rows, packed(before, INT8))
  assert 0 < found.rows <= 200
  assert 0 < found.most < 1e-3


@pytest.mark.parametrize(
  ('value', 'words'), [(7e4, '70000'), (np.nan, 'nan'), (-1e30, r'1e\+30')]
)
def test_what_float16_cannot_have_is_refused_by_table_and_row(value, words):
  values = drawn(5, 16)
  rows, lines, _ = int8_rows(values)
  lines[3] = 0, value
  with pytest.raises(InputError, match=f'table C1, row 3: a value is {words}'):
    round_lines(rows, lines, 16, 'C1')
