"""Several labels and a column of groups: from raw files to a set, and back."""

import numpy as np
import polars as pl
import pytest

from dlrm_jax.batch import NO_GROUP
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import join
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import pipeline
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.fitting import Fit, fitting
from dlrm_jax.prepare.known_ids import read_raw
from dlrm_jax.prepare.preparation import Settings, preparation_of
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.resources import default_memory
from dlrm_jax.prepare.stages.encode import group_numbers

RAW = {
  'format': 'csv',
  'label': ['click', 'buy'],
  'sparse': ['item'],
  'group': 'user',
}
ROWS = ('1,,a,u1', '0,0,b,u2', ',1,a,u1', '1,1,c,', '0,,b,u2')
LABELS = [[1, np.nan], [0, 0], [np.nan, 1], [1, 1], [0, np.nan]]


def write(folder, rows=ROWS, name='log.csv'):
  path = folder / name
  path.write_text('\n'.join(['click,buy,item,user', *rows, '']))
  return str(path)


def prepared(folder, path, raw=RAW):
  settings = Settings(splits='train=1', shuffle=False)
  preparation = preparation_of(reader_of(raw), {'all': [path]}, settings, raw)
  output = str(folder / 'set')
  pipeline.prepare_set(preparation, output, default_memory())
  return open_prepared(output)


def frames(path, raw):
  reader = reader_of(raw)
  (piece,) = reader.pieces(path)
  fit = Fit(reader.columns)
  return pl.concat(fitting(reader, piece, BadRows(), bytes, fit))


def test_a_set_has_all_labels_and_the_groups(tmp_path):
  found = prepared(tmp_path, write(tmp_path))
  assert found.schema.labels == ('click', 'buy')
  assert found.schema.grouped
  assert found.clicks == {'train': 2}
  block = found.source('train')[0]
  np.testing.assert_array_equal(block.labels, LABELS)
  a, b, c, none, d = block.group.tolist()
  assert (a, b) == (c, d)
  assert a != b
  assert none == NO_GROUP


def test_a_raw_file_is_read_with_the_labels_and_groups_of_the_set(tmp_path):
  path = write(tmp_path)
  found = prepared(tmp_path, path)
  again = join(list(read_raw(found, [path])))
  written = found.source('train')[0]
  np.testing.assert_array_equal(again.labels, written.labels)
  np.testing.assert_array_equal(again.group, written.group)


def test_one_label_stays_needed_and_has_the_digests_it_had(tmp_path):
  rows = [row for row in ROWS if not row.startswith(',')]
  one = {key: value for key, value in RAW.items() if key != 'group'}
  path = write(tmp_path, rows)
  found = prepared(tmp_path, path, one | {'label': 'click'})
  assert found.schema.to_json().keys() == {'dense', 'sparse'}
  listed = prepared(tmp_path / 'listed', path, one | {'label': ['click']})
  assert listed.schema == found.schema
  with pytest.raises(InputError, match='bad label: nothing; expected 0 or 1'):
    frames(write(tmp_path), one | {'label': 'click'})


def test_labels_of_minus_one_are_judged_column_by_column(tmp_path):
  path = write(tmp_path, ['-1,0,a,u', '1,1,b,u'])
  frame = frames(path, RAW)
  assert frame['label/click'].to_list() == [0, 1]
  assert frame['label/buy'].to_list() == [0, 1]
  path = write(tmp_path, ['-1,0,a,u', '0,1,b,u'])
  with pytest.raises(InputError, match='column click: a label is -1'):
    frames(path, RAW)


def test_labels_may_have_names_of_their_own(tmp_path):
  label = {'like': 'click > 3', 'love': {'column': 'click', 'positive': ['5']}}
  path = write(tmp_path, ['5,,a,u', '4,,a,u', ',,a,u'])
  frame = frames(path, RAW | {'label': label})
  assert frame['label/like'].to_list() == [1, 1, None]
  assert frame['label/love'].to_list() == [1, 0, None]


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'label': ['click', 'click']}, 'two labels of one column'),
    ({'label': {'a/b': 'click', 'c': 'buy'}}, "can be called 'a/b'"),
    ({'label': []}, 'expected a label or more'),
    ({'label': ['click', 3]}, r'label is 3; expected a column'),
    ({'label': ['click', 'item']}, "'item' is the label, and feature 'item'"),
    ({'group': 3}, r'group is 3; expected a name'),
  ],
)
def test_what_no_label_or_group_can_be_is_told(change, told):
  with pytest.raises(InputError, match=told):
    reader_of(RAW | change)


def test_a_missing_column_of_groups_is_told(tmp_path):
  with pytest.raises(InputError, match=r"no column 'usr'.*mean 'user'"):
    frames(write(tmp_path), RAW | {'group': 'usr'})


def test_numbers_of_groups_are_the_same_in_every_version():
  users = pl.Series(['u1', None, 'u2'])
  numbers = pl.Series([1, None, -5])
  assert group_numbers(users).tolist() == [1390970905, NO_GROUP, 1551455006]
  assert group_numbers(numbers).tolist() == [722909340, NO_GROUP, 220830133]
