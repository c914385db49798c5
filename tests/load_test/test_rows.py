"""Rows to send: drawn, or of a file."""

import numpy as np
import polars as pl
import pytest

pytest.importorskip('tritonclient')

from dlrm_jax.errors import InputError
from dlrm_jax.load_test import rows

METADATA = {
  'inputs': [
    {'name': 'dense', 'datatype': 'FP32', 'shape': [-1, 2]},
    {'name': 'ids', 'datatype': 'INT32', 'shape': [-1, 3]},
    {'name': 'price', 'datatype': 'FP32', 'shape': [-1, 1]},
    {'name': 'user', 'datatype': 'INT64', 'shape': ['-1', '1']},
    {'name': 'site', 'datatype': 'BYTES', 'shape': [-1, 1]},
    {'name': 'tags', 'datatype': 'BYTES', 'shape': [-1, -1]},
    {'name': 'scores', 'datatype': 'FP32', 'shape': [-1, -1]},
  ]
}
CONFIG = {
  'parameters': {'network_inputs': {'string_value': '["dense", "ids"]'}}
}
LISTS = {
  'price': [0.5, None, 2.0],
  'user': [1, 2, 3],
  'site': ['ff', None, 'é'],
  'tags': [['a', 'b'], [], None],
  'scores': [[1.0, 2.0], [], None],
}


@pytest.fixture
def inputs():
  return rows.inputs_of(METADATA, CONFIG)


def by_name(tensors):
  return {x.name: (x.datatype, x.values.tolist()) for x in tensors}


def test_a_model_has_inputs_of_its_network_and_of_its_log(inputs):
  assert [x.name for x in inputs.network] == ['dense', 'ids']
  assert [x.name for x in inputs.columns][:2] == ['price', 'user']
  assert inputs.columns[1].row == (1,)
  others = rows.inputs_of(METADATA, {})
  assert others.network == ()
  assert len(others.columns) == 7


def test_drawn_rows_have_types_and_shapes_of_the_metadata(inputs):
  tensors = rows.draw(inputs, 5, np.random.default_rng(0))
  shapes = {x.name: x.values.shape for x in tensors}
  assert shapes == {
    'price': (5, 1),
    'user': (5, 1),
    'site': (5, 1),
    'tags': (5, 3),
    'scores': (5, 3),
  }
  kinds = {x.name: x.values.dtype for x in tensors}
  assert kinds['price'] == np.float32
  assert kinds['user'] == np.int64
  assert kinds['site'].kind == 'O'
  again = rows.draw(inputs, 5, np.random.default_rng(0))
  assert by_name(tensors) == by_name(again)


def test_rows_of_parquet_keep_their_lists_and_what_is_missing(inputs, tmp_path):
  pl.DataFrame(LISTS).write_parquet(tmp_path / 'rows.parquet')
  found = rows.read(str(tmp_path / 'rows.parquet'), inputs)
  tensors = by_name(found.part(0, 3))
  kind, prices = tensors.pop('price')
  assert kind == 'FP32'
  np.testing.assert_array_equal(prices, [[0.5], [np.nan], [2.0]])
  assert tensors == {
    'user': ('INT64', [[1], [2], [3]]),
    'site': ('BYTES', [['ff'], [''], ['é']]),
    'tags': ('BYTES', [['a', 'b'], ['', ''], ['', '']]),
    'scores': ('FP32', [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]),
  }


@pytest.mark.parametrize('separator', [',', '\t', ';'])
def test_bags_of_text_are_sent_as_they_are(separator, inputs, tmp_path):
  path = tmp_path / 'rows.csv'
  lines = ['id,price,user,site,tags,scores', '7,0.5,,ff,a|b,1|2', '8,,3,,,']
  path.write_text('\n'.join(lines).replace(',', separator) + '\n')
  tensors = by_name(rows.read(str(path), inputs).part(0, 2))
  kind, prices = tensors.pop('price')
  assert kind == 'FP32'
  np.testing.assert_array_equal(prices, [[0.5], [np.nan]])
  assert tensors == {
    'user': ('BYTES', [[''], ['3']]),  # an integer is missing
    'site': ('BYTES', [['ff'], ['']]),
    'tags': ('BYTES', ['a|b', '']),
    'scores': ('BYTES', ['1|2', '']),
  }


def test_behind_the_last_row_comes_the_first(inputs, tmp_path):
  pl.DataFrame(LISTS).write_parquet(tmp_path / 'rows.parquet')
  found = rows.read(str(tmp_path / 'rows.parquet'), inputs)
  part = by_name(found.part(2, 5))
  assert part['user'] == ('INT64', [[3], [1], [2], [3], [1]])


def test_inputs_of_the_network_come_from_columns_of_lists(inputs, tmp_path):
  path = tmp_path / 'rows.parquet'
  pl.DataFrame({'dense': [[0.5, 1]], 'ids': [[3, -1, 4]]}).write_parquet(path)
  assert by_name(rows.read(str(path), inputs).part(0, 1)) == {
    'dense': ('FP32', [[0.5, 1.0]]),
    'ids': ('INT32', [[3, -1, 4]]),
  }


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'price': None}, ["no column 'price'", 'user']),
    ({'price': ['1', 'many', '']}, ["'price'", "'many'", 'FP32']),
    ({'user': ['1', '1.5', '']}, ["'user'", "'1.5'", 'INT64']),
    ({'site': [['a'], ['b'], []]}, ["'site'", 'List', 'BYTES']),
    ({'tags': [1, 2, 3]}, ["'tags'", 'Int64', 'BYTES']),
  ],
)
def test_rows_that_cannot_be_sent_are_refused(change, words, inputs, tmp_path):
  path = tmp_path / 'rows.parquet'
  frame = {k: v for k, v in (LISTS | change).items() if v is not None}
  pl.DataFrame(frame).write_parquet(path)
  with pytest.raises(InputError) as error:
    rows.read(str(path), inputs)
  for word in words:
    assert word in str(error.value)


def test_files_that_are_none_are_refused(inputs, tmp_path):
  cut, empty = tmp_path / 'cut.parquet', tmp_path / 'empty.csv'
  cut.write_bytes(b'PAR1 and no more')
  empty.write_text('price,user,site,tags,scores\n')
  for path in (tmp_path / 'no', cut):
    with pytest.raises(InputError, match='cannot be read'):
      rows.read(str(path), inputs)
  with pytest.raises(InputError, match='no rows'):
    rows.read(str(empty), inputs)


def test_lists_of_ids_of_another_length_are_refused(inputs, tmp_path):
  path = tmp_path / 'rows.parquet'
  pl.DataFrame({'dense': [[0.5, 1]], 'ids': [[3, 4]]}).write_parquet(path)
  with pytest.raises(
    InputError, match="'ids' has a list of 2; the model takes 3"
  ):
    rows.read(str(path), inputs)
