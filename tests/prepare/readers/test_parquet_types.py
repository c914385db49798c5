"""Parquet columns of the types that writers choose mean what they meant."""

import datetime
import decimal

import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary import keys
from tests.prepare.readers.parquet_log import read

INTEGER = {'sparse': {'u': 'integer'}}
NAN = float('nan')
DAY = datetime.date(2020, 1, 2)
NOON = datetime.datetime(2020, 1, 2, 12)


@pytest.fixture
def write(tmp_path):
  """Writes a file of labels 1 and 0 in turn, and of other columns."""

  def written(name='log.parquet', **columns):
    frame = pl.DataFrame(columns)
    if 'y' not in columns:
      frame = frame.with_columns(y=(pl.int_range(pl.len()) + 1) % 2)
    frame.write_parquet(tmp_path / name)
    return tmp_path / name

  return written


def text(dtype, values=('b', None, 'a')):
  return pl.Series(values, dtype=pl.String).cast(dtype)


TEXTS = [pl.Categorical, pl.Enum(['a', 'b']), pl.Binary]


@pytest.mark.parametrize('dtype', TEXTS)
@pytest.mark.parametrize('options', [{}, {'ids': 'hashed', 'rows': 9}])
def test_text_of_any_type_is_text(write, dtype, options):
  path = write(u=text(dtype))
  frame, _ = read(path, sparse={'u': options})
  assert frame['u'].dtype == pl.String
  assert frame['u'].to_list() == ['b', None, 'a']


@pytest.mark.parametrize('dtype', TEXTS)
def test_text_of_any_type_is_text_in_bags(write, dtype):
  path = write(u=pl.Series([['b', 'a'], [], None]).cast(pl.List(dtype)))
  frame, _ = read(path, sparse=[], bags=['u'])
  assert frame['u'].to_list() == [['b', 'a'], [], []]


@pytest.mark.parametrize('dtype', [pl.Categorical, pl.Binary])
def test_text_of_any_type_may_be_numbers_labels_and_times(write, dtype):
  path = write(
    y=text(dtype, ['1.0', '0', '1']),
    u=text(dtype, ['ff', 'NULL', '0']),
    p=text(dtype, ['1.5', None, '-']),
    i=text(dtype, ['5', '5.0', 'nan']),
    t=text(dtype, ['2020-01-02', '2020-01-02 00:00:01', '2020-01-03']),
  )
  frame, _ = read(
    path, sparse={'u': 'hex', 'i': 'integer'}, dense=['p'], time='t'
  )
  assert frame['label'].to_list() == [1, 0, 1]
  assert frame['u'].to_list() == [255, None, 0]
  assert frame['p'].to_list() == [1.5, None, None]
  assert frame['i'].to_list() == [5, 5, None]
  assert (frame['time'] - frame['time'][0]).to_list() == [0, 1, 86400]


def test_bytes_that_are_no_text_are_a_bad_row(write):
  path = write(u=[b'a', b'\xff\xfe', 'é'.encode()])
  with pytest.raises(InputError, match=r'row 2, column u: no text.*UTF-8'):
    read(path)
  assert read(path, 'skip')[0]['u'].to_list() == ['a', 'é']
  path = write(u=[[b'a'], [b'b', b'\xff'], []])
  with pytest.raises(InputError, match=r'row 2, column u: no text in a bag'):
    read(path, sparse=[], bags=['u'])


@pytest.mark.parametrize(
  ('values', 'dtype', 'wanted'),
  [
    ([7, 5, None], pl.Int8, [7, 5, None]),
    ([7, 5, None], pl.UInt16, [7, 5, None]),
    ([7, -5, 2**63 - 1], pl.Int64, [7, -5, 2**63 - 1]),
    ([7, 2**63 - 1, None], pl.UInt64, [7, 2**63 - 1, None]),
    ([7.0, NAN, None], pl.Float64, [7, None, None]),
    ([7.0, -(2.0**53) + 1, 0.0], pl.Float64, [7, -(2**53) + 1, 0]),
    ([7.0, NAN, None], pl.Float32, [7, None, None]),
    ([True, False, None], pl.Boolean, [1, 0, None]),
    ([None, None, None], pl.Null, [None, None, None]),
    ([None, None, None], pl.String, [None, None, None]),
    ([7, -5, None], pl.Decimal(20, 0), [7, -5, None]),
    ([7, -5, None], pl.Decimal(20, 2), [7, -5, None]),
    (['7', '+5.0', 'NULL'], pl.Categorical, [7, 5, None]),
  ],
)
def test_integers_of_any_type_are_integers(write, values, dtype, wanted):
  if isinstance(dtype, pl.Decimal):
    values = [x if x is None else decimal.Decimal(x) for x in values]
  path = write(u=pl.Series(values, dtype=dtype, strict=False))
  frame, _ = read(path, **INTEGER)
  assert frame['u'].dtype == pl.Int64
  assert frame['u'].to_list() == wanted


@pytest.mark.parametrize('dtype', [pl.UInt64, pl.Decimal(20, 0), pl.String])
def test_integers_of_64_bits_unsigned_are_other_ids_than_negative_ones(
  write, dtype
):
  big = [2**63, 2**63 + 1, 2**64 - 1]
  values = pl.Series([str(x) for x in big]).cast(pl.Decimal(20, 0)).cast(dtype)
  unsigned, _ = read(write(u=values), **INTEGER)
  signed = read(write(u=[-(2**63), -(2**63) + 1, -1, 0, 2**63 - 1]), **INTEGER)
  found = [*unsigned['u'], *signed[0]['u']]
  assert len(set(found)) == 8
  assert signed[0]['u'].to_list()[2:] == [-1, 0, 2**63 - 1]
  assert found[:3] == [keys.as_int64(x) for x in big]


@pytest.mark.parametrize(
  ('values', 'words'),
  [
    ([1.0, 1.5, 2.0], ['1.5', 'whole number below 2^53']),
    ([1.0, 2.0**53, 2.0], ['9007199254740992.0', 'whole number below 2^53']),
    ([1.0, float('inf'), 2.0], ['inf']),
    ([decimal.Decimal(x) for x in ('1', '1.5', '2')], ['1.5', 'an integer']),
    (['1', '18446744073709551616', '2'], ["'18446744073709551616'", '2^64']),
    (['1', 'x', '2'], ["'x'", 'an integer', 'or nothing']),
  ],
)
def test_what_is_no_integer_is_a_bad_row(write, values, words):
  path = write(u=values)
  with pytest.raises(InputError) as error:
    read(path, **INTEGER)
  for word in ('row 2', 'column u', *words):
    assert word in str(error.value), word
  assert read(path, 'skip', **INTEGER)[0]['u'].to_list() == [1, 2]


def test_single_floats_are_exact_up_to_another_bound(write):
  path = write(u=pl.Series([2.0**24 - 1, 2.0**24], dtype=pl.Float32))
  with pytest.raises(InputError, match=r'row 2.*below 2\^24 \(Float32\)'):
    read(path, **INTEGER)


@pytest.mark.parametrize(
  'dtype',
  [
    pl.List(pl.UInt64),
    pl.List(pl.Float64),
    pl.Array(pl.Int32, 2),
    pl.List(pl.Decimal(20, 0)),
    pl.List(pl.Categorical),
  ],
)
def test_bags_of_any_type_are_lists_of_integers(write, dtype):
  if dtype == pl.List(pl.Categorical):
    bags = pl.Series([['7', '5'], None, ['1', None]], dtype=dtype)
  else:
    bags = pl.Series([[7, 5], None, [1, None]]).cast(dtype)
  path = write(u=bags)
  frame, _ = read(path, sparse=[], bags={'u': 'integer'})
  assert frame['u'].dtype == pl.List(pl.Int64)
  assert frame['u'].to_list() == [[7, 5], [], [1]]


@pytest.mark.parametrize('inner', [None, pl.List(pl.Null)])
def test_bags_without_any_element_are_empty(write, inner):
  bags = pl.Series([None, None], dtype=inner or pl.Null)
  frame, _ = read(write(u=bags), sparse=[], bags=['u'])
  assert frame['u'].to_list() == [[], []]


def test_weights_of_missing_elements_are_missing_too(write):
  path = write(u=[[7, None], [5]], w=[[0.5, NAN], [1.0]])
  options = {'u': {'values': 'integer', 'weights': 'w'}}
  frame, _ = read(path, sparse=[], bags=options)
  assert frame['u'].to_list() == [[7], [5]]
  assert frame['u.weights'].to_list() == [[0.5], [1.0]]
  path = write(u=[[7, 6], [5]], w=[[0.5, NAN], [1.0]])
  with pytest.raises(InputError, match=r'row 1, column w: weights do not fit'):
    read(path, sparse=[], bags=options)


def test_a_missing_number_may_be_nan(write):
  path = write(
    u=['a', 'b', 'c'],
    p=[NAN, None, 2.5],
    q=[True, False, None],
    d=[decimal.Decimal('1.5'), None, decimal.Decimal(-2)],
  )
  frame, _ = read(path, dense=['p', 'q', 'd'])
  assert frame['p'].to_list() == [None, None, 2.5]
  assert frame['q'].to_list() == [1, 0, None]
  assert frame['d'].to_list() == [1.5, None, -2]


@pytest.mark.parametrize('field', ['label', 'weight', 'time'])
def test_a_number_that_is_needed_may_not_be_nan(write, field):
  path = write(u=['a', 'b'], x=[1.0, NAN])
  with pytest.raises(InputError, match=r'row 2, column x: .*nan'):
    read(path, **{field: 'x'})


@pytest.mark.parametrize(
  'labels',
  [
    [1.0, 0.0, 1.0],
    [True, False, True],
    [1, -1, 1],
    [decimal.Decimal(x) for x in (1, 0, 1)],
    ['1.0', '0', '1e0'],
    ['true', 'F', 'Yes'],
    [' 1', '-1.0', '+1'],
  ],
)
def test_labels_of_any_type_are_1_or_not(write, labels):
  frame, _ = read(write(u=['a', 'b', 'c'], y=labels))
  assert (frame['label'] == 1).to_list() == [True, False, True]


@pytest.mark.parametrize(
  'times',
  [
    [DAY, DAY + datetime.timedelta(1)],
    [NOON, NOON + datetime.timedelta(microseconds=1)],
    [1e-9, 2e-9],
    [2**53, 2**62],
    ['2020-01-02T23:59:59+01:00', '2020-01-02 23:00Z'],
    ['2020-01-02 10:00:00.25', '2020/01/02 10:00:00.5'],
  ],
)
def test_times_of_any_type_are_in_their_order(write, times):
  frame, _ = read(write(u=['a', 'b'], t=times), time='t')
  first, second = frame['time']
  assert first < second


def test_zones_are_minded(write):
  times = pl.Series([NOON]).dt.replace_time_zone('Asia/Tokyo')
  frame, _ = read(write(u=['a'], t=times), time='t')
  assert frame['time'].to_list() == [1577934000]
  written = [
    *('2020-01-02 12:00+09:00', '2020-01-02T12:00:00.000+0900'),
    *('2020-01-02 12:00:00 +09', '2020-01-02 03:00Z', '2020-01-02 03:00'),
    *('2020-01-02 03:00:00 UTC', '2020-01-01 23:30:00.000000000-03:30'),
  ]
  frame, _ = read(write(u=['a'] * 7, t=written), time='t')
  assert set(frame['time']) == {1577934000}


@pytest.mark.parametrize('odd', ['soon', '5', '2020-13-01', '2020-01-02x', ''])
def test_another_thing_among_dates_is_a_bad_row(write, odd):
  path = write(u=['a', 'b', 'c'], t=['2020-01-02', odd, '2020-01-03'])
  with pytest.raises(InputError, match=r'row 2, column t: no time.*a date'):
    read(path, time='t')
  assert read(path, 'skip', time='t')[0].height == 2


def test_files_may_have_other_types_than_each_other(write):
  columns = [
    {'u': pl.Series([1, 2], dtype=pl.Int64)},
    {'u': [1.0, NAN]},
    {'u': pl.Series([1, 2**63], dtype=pl.UInt64)},
    {'u': ['1', '2']},
    {'u': pl.Series([None, None], dtype=pl.Null)},
  ]
  frames = [
    read(write(f'{n}.parquet', **x), **INTEGER)[0]
    for n, x in enumerate(columns)
  ]
  whole = pl.concat(frames)  # of equal types
  assert whole['u'].to_list()[:4] == [1, 2, 1, None]


def test_missing_words_are_missing_in_all_columns(write):
  path = write(u=['unknown', 'None'], i=[2**64 - 1, 5], p=[-999.0, 5.5])
  frame, _ = read(
    path,
    sparse={'u': 'string', 'i': 'integer'},
    dense=['p'],
    missing=['unknown', 2**64 - 1, -999],
  )
  assert frame.select('u', 'i', 'p').rows() == [
    (None, None, None),
    ('None', 5, 5.5),
  ]
