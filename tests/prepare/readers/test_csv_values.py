"""Values in CSV mean what their writers meant, whatever the spelling."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER
from dlrm_jax.prepare.values import sift
from dlrm_jax.prepare.values.raw_bags import lists
from dlrm_jax.vocabulary import keys

RAW = {'format': 'csv', 'label': 'y', 'sparse': ['u']}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('values')


def read(folder, rows, bad='stop', header='y,u,x', **changes):
  """Good rows, as tuples, of a file with these lines."""
  path = folder / 'log.csv'
  path.write_text('\n'.join([header, *rows, '']))
  reader, found = reader_of(RAW | changes), BadRows(bad)
  return [
    row
    for piece in reader.pieces(str(path))
    for frame in reader.read(piece, found, bytes)
    for row in frame.drop(NUMBER).rows()
  ]


@pytest.mark.parametrize('values', ['string', 'integer'])
@pytest.mark.parametrize(
  ('written', 'separator'),
  [
    (['"[1, 4]"', '"[]"', '"[4, 4]"'], ','),
    (['"[1, 4]"', '', '"[4, 4]"'], '|'),
    (['"1, 4"', '', '"4 ,4"'], ','),
    (['1|4|', '', '4|4|'], '|'),
    (['[1 4]', '[]', '[4 4]'], '|'),
    (['"[""1"", ""4""]"', '[]', "\"['4', '4']\""], '|'),
  ],
)
def test_a_list_has_its_ids_and_no_others(folder, written, separator, values):
  rows = [f'1,a,{bag}' for bag in written]
  bags = {'x': {'separator': separator, 'values': values}}
  kind = str if values == 'string' else int
  assert [row[2] for row in read(folder, rows, bags=bags)] == [
    [kind(x) for x in bag] for bag in ([1, 4], [], [4, 4])
  ]


def test_only_rows_that_are_not_plain_are_read_again(folder, monkeypatch):
  seen = []
  monkeypatch.setattr(
    sift, 'lists', lambda bags, x: seen.extend(bags) or lists(bags, x)
  )
  rows = ['1,a,1|4', '1,a,1|4|', '1,+5,3', '1,a,', '0,7,[4 1]']
  found = read(folder, rows, bags={'x': {'values': 'integer'}})
  assert [row[2] for row in found] == [[1, 4], [1, 4], [3], [], [4, 1]]
  assert seen == ['1|4|', '[4 1]']


def test_weights_of_a_list_may_be_a_list(folder):
  bags = {'t': {'weights': 'w'}}
  header = 'y,u,t,w'
  rows = ['1,a,"[\'b\', \'c\']","[.5, 1]"', '0,a,b|c,.5|1|', '0,a,,[]']
  found = [row[2:] for row in read(folder, rows, header=header, bags=bags)]
  assert found == [(['b', 'c'], [0.5, 1])] * 2 + [([], [])]
  for row in ('0,a,b||c,.5|1', '0,a,b|c,"[.5]"', '0,a,b|c,.5|NaN'):
    with pytest.raises(InputError, match=r'line 2, column w: weights do not'):
      read(folder, [row], header=header, bags=bags)


def test_a_column_may_be_two_bags(folder):
  bags = {
    'a': {'column': 'x', 'separator': ' '},
    'b': {'column': 'x', 'separator': '|'},
  }
  rows = ['1,u,c d| e', '0,u,"[f, g]"', '1,u,h']
  assert [row[2:] for row in read(folder, rows, bags=bags)] == [
    (['c', 'd|', 'e'], ['c d', 'e']),
    (['f', 'g'], ['f', 'g']),
    (['h'], ['h']),
  ]


def test_a_broken_list_is_a_bad_row(folder):
  rows = ['1,a,"[1, 4"', '0,a,"[2]"']
  bags = {'x': {'separator': ','}}
  with pytest.raises(InputError, match=r"line 2, column x: .*'\[1, 4'; .*list"):
    read(folder, rows, bags=bags)
  assert read(folder, rows, 'skip', bags=bags) == [(0, 'a', ['2'])]


def test_text_of_one_id_is_kept_as_it_is(folder):
  rows = [f'1,{x},' for x in (' 4', '4', '[1]', 'None', '007', '-', '4.0')]
  found = [row[1] for row in read(folder, rows)]
  assert found == [' 4', '4', '[1]', 'None', '007', '-', '4.0']


@given(value=st.integers(-(2**53) + 1, 2**53 - 1))
def test_an_integer_may_be_written_as_any_number(folder, value):
  written = [f'{value}', f'{value}.0', f' {value:+}', f'{value:.25e}']
  written += [repr(float(value)), repr(np.float64(value).item()), f'{value}.']
  rows = [f'1,{x},' for x in written]
  found = read(folder, rows, sparse={'u': 'integer'})
  assert {row[1] for row in found} == {value}


@given(values=st.sets(st.integers(-(2**63), 2**64 - 1), min_size=2))
def test_integers_of_64_bits_are_all_others(folder, values):
  rows = [f'1,{x},' for x in values]
  found = [row[1] for row in read(folder, rows, sparse={'u': 'integer'})]
  assert len(set(found)) == len(values)
  assert found == [keys.as_int64(x) for x in values]


@pytest.mark.parametrize(
  'written', ['18446744073709551616', '1e19', '5.5', 'x']
)
def test_what_is_no_integer_is_a_bad_row_with_the_bounds(folder, written):
  with pytest.raises(InputError, match=r'line 2.*-2\^63 \.\.\. 2\^64 - 1'):
    read(folder, [f'1,{written},'], sparse={'u': 'integer'})


MISSING = [
  '',
  '-',
  '?',
  'nan',
  'NaN',
  'NULL',
  '\\N',
  'None',
  'NA',
  'n/a',
  '<NA>',
]


@pytest.mark.parametrize('word', [*MISSING, ' ', ' NaN '])
def test_numbers_know_the_words_for_missing(folder, word):
  rows = [f'1,{word},{word}', '0,5,2.5']
  options = {'sparse': {'u': 'integer'}, 'dense': ['x']}
  assert read(folder, rows, **options) == [(1, None, None), (0, 2.5, 5)]
  options = {'sparse': {'u': 'hex'}}
  assert read(folder, rows, **options) == [(1, None), (0, 5)]
  with pytest.raises(InputError, match='line 2, column x: bad label'):
    read(folder, rows, label='x')


def test_other_words_for_missing_can_be_said(folder):
  rows = ['1,none,-1', '0,unknown,-1.0', '1,5,unknown', '1,5,2']
  options = {'dense': ['x'], 'missing': ['unknown', -1]}
  found = [row[1:] for row in read(folder, rows, **options)]
  assert found == [(None, 'none'), (None, None), (None, '5'), (2, '5')]
  bags = {'x': {'separator': ' '}}
  rows = ['1,a,b unknown c -1', '0,a,unknown']
  found = [row[2] for row in read(folder, rows, bags=bags, missing=['unknown'])]
  assert found == [['b', 'c', '-1'], []]
  options = {'sparse': {'u': 'hex'}, 'missing': ['ff']}
  rows = ['1,ff,', '1,fe,', '1, ff ,', '1, fe,']
  found = [row[1] for row in read(folder, rows, **options)]
  assert found == [None, 254, None, 254]


@pytest.mark.parametrize('given', ['-', [None], {'x': 1}, [True]])
def test_words_for_missing_are_a_list(folder, given):
  with pytest.raises(InputError, match=r'data\.raw\.missing is .*a list'):
    read(folder, [], missing=given)


ONES = ['1', '1.0', '1.0000000', '1e0', '+1', ' 1', '01', '1.', 'true', 'YES']
ZEROS = ['0', '0.0', '0e0', '-0', '+0.000', ' 0 ', '.0', 'False', 'f', 'no']


@given(labels=st.lists(st.sampled_from([*ONES, *ZEROS]), min_size=1))
def test_0_and_1_are_labels_in_any_spelling(folder, labels):
  found = read(folder, [f'{x},u,' for x in labels])
  assert [row[0] for row in found] == [int(x in ONES) for x in labels]


def test_a_label_that_means_missing_is_a_bad_row(folder):
  rows = ['1,u,', '-1,u,', '0,u,', '-1.0,u,']
  found = read(folder, rows, 'skip', missing=[-1])
  assert [row[0] for row in found] == [1, 0]


def test_the_message_of_a_bad_label_says_what_works(folder):
  for label in ('2', 'click', '0.5', 'nan', ''):
    with pytest.raises(InputError, match=r"'y >= 1', or 'y == VALUE'"):
      read(folder, ['1,u,', f'{label},u,'])


@pytest.mark.parametrize(
  ('label', 'wanted'),
  [
    ('x >= 2', [0, 1, 1, 0]),
    ('x > 2', [0, 0, 1, 0]),
    ('x > -.5e0', [1, 1, 1, 0]),
    ('x == 2', [0, 1, 0, 0]),
    ({'column': 'x', 'positive': [1, '3']}, [1, 0, 1, 0]),
  ],
)
def test_a_label_may_be_a_comparison(folder, label, wanted):
  rows = [f'0,u,{x}' for x in ('1', '2.0', '+3', '-1')]
  assert [row[0] for row in read(folder, rows, label=label)] == wanted


@pytest.mark.parametrize(
  ('label', 'wanted'),
  [
    ('x == click', [1, 0, 0, 1]),
    ("x == 'add to cart'", [0, 0, 1, 0]),
    ({'column': 'x', 'positive': ['click', 'buy']}, [1, 1, 0, 1]),
    ({'column': 'x', 'positive': 'buy'}, [0, 1, 0, 0]),
  ],
)
def test_a_label_may_be_words(folder, label, wanted):
  rows = [f'0,u,{x}' for x in ('click', 'buy', 'add to cart', ' click')]
  assert [row[0] for row in read(folder, rows, label=label)] == wanted
  with pytest.raises(InputError, match=r'line 2, column x: bad label: nothing'):
    read(folder, ['0,u,'], label=label)


@pytest.mark.parametrize(
  'label',
  [3, '', {'column': 'x'}, {'column': 'x', 'positive': []}, {'positive': [1]}],
)
def test_a_label_that_says_nothing_is_named(folder, label):
  with pytest.raises(InputError, match=r"data\.raw\.label is .*'column == val"):
    read(folder, [], label=label)


@pytest.mark.parametrize(
  'times',
  [
    ['1', '2.5', '1e3'],
    ['2014-10-21', '2014-10-22 00:00', '2014-10-22T01:00:00.5Z'],
  ],
)
def test_times_are_in_their_order(folder, times):
  rows = [f'1,u,{x}' for x in times]
  found = pl.Series([row[2] for row in read(folder, rows, time='x')])
  assert found.is_sorted()
  assert found.n_unique() == 3
