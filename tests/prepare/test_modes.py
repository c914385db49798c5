"""The numberings of other programs, each beside a plain definition of it."""

import numpy as np
import pytest

from dlrm_jax.data.schema import join
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.criteo import settings as criteo
from dlrm_jax.prepare.criteo.settings import CriteoSettings
from dlrm_jax.prepare.known_ids import read_raw
from dlrm_jax.prepare.stages import count as counting
from tests.sets import prepare_criteo


def fb_ids(column, modulo):
  """facebookresearch/dlrm: numbers from 0 as values first appear."""
  ids = {}
  values = [int(text or '0', 16) for text in column]
  values = [x % modulo if modulo else x for x in values]
  return [ids.setdefault(x, len(ids)) for x in values], len(ids)


def torchrec_ids(column, threshold):
  """torchrec: numbers from 2 as values first appear; 1 for the seldom ones."""
  values = [int(text or '0', 16) for text in column]
  count = {}
  for x in values:
    count[x] = count.get(x, 0) + 1
  ids = {}
  for x in values:
    if count[x] >= threshold:
      ids.setdefault(x, 2 + len(ids))
  return [ids.get(x, 1) for x in values], 2 + len(ids)


def make_rows(count, seed=0):
  """Rows as texts: repeated values, late ones, missing ones, zeros."""
  rng = np.random.default_rng(seed)
  rows = []
  for number in range(count):
    ints = [str(x - 3) if x % 6 else '' for x in rng.geometric(0.1, 13)]
    ids = rng.zipf(1.3, 26) % (40 + number) * rng.choice([1, 1 << 24], 26)
    cats = ['' if x % 5 == 1 else f'{x % (1 << 32):08x}' for x in ids.tolist()]
    rows.append([str(int(rng.random() < 0.3)), *ints, *cats])
  return rows


def save(path, rows):
  path.write_text(''.join('\t'.join(row) + '\n' for row in rows))
  return str(path)


def whole(source):
  return join([source[i] for i in range(len(source))])


def prepared_files(folder, rows, options):
  """Two files of train, one of validation and one of test, in this order."""
  cuts = [rows[:150], rows[150:210], rows[210:260], rows[260:]]
  files = [save(folder / f'day_{i}', part) for i, part in enumerate(cuts)]
  inputs = {'train': files[:2], 'validation': files[2:3], 'test': files[3:]}
  return prepare_criteo(inputs, str(folder / 'set'), options)


def check(prepared, rows, expected):
  """Compares all splits, in order, with ids and sizes of each column."""
  ids = np.concatenate([whole(prepared.source(s)).ids for s in prepared.splits])
  columns = list(zip(*[row[14:] for row in rows], strict=True))
  for number, column in enumerate(columns):
    numbers, size = expected(column)
    np.testing.assert_array_equal(ids[:, number], numbers)
    assert prepared.schema.sparse[number].rows == size


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
  monkeypatch.setattr(counting, 'RUN_ROWS', 100)


@pytest.mark.parametrize('modulo', [0, 17])
def test_fb_numbers_values_of_all_files_as_they_first_appear(tmp_path, modulo):
  rows = make_rows(300)
  options = CriteoSettings(
    'fb', max_ind_range=modulo, splits=None, shuffle=False
  )
  prepared = prepared_files(tmp_path, rows, options)
  check(prepared, rows, lambda column: fb_ids(column, modulo))


@pytest.mark.parametrize('threshold', [1, None])
def test_torchrec_numbers_from_2_and_1_is_for_seldom_values(
  tmp_path, threshold
):
  rows = make_rows(300, seed=1)
  options = CriteoSettings(
    'torchrec', min_count=threshold, splits=None, shuffle=False
  )
  prepared = prepared_files(tmp_path, rows, options)
  check(prepared, rows, lambda column: torchrec_ids(column, threshold or 3))


@pytest.mark.parametrize('mode', ['fb', 'torchrec'])
def test_shares_of_one_log_are_numbered_as_the_whole_log(tmp_path, mode):
  rows = make_rows(300, seed=2)
  raw = save(tmp_path / 'raw', rows)
  options = CriteoSettings(mode, splits='train=1/2,test=1/2', shuffle=False)
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  plain = {
    'fb': lambda column: fb_ids(column, 0),
    'torchrec': lambda column: torchrec_ids(column, 3),
  }
  check(prepared, rows, plain[mode])


@pytest.mark.parametrize(
  ('mode', 'log'),
  [
    ('fb', lambda x: np.log(np.maximum(x, 0) + 1)),
    ('torchrec', lambda x: np.log(x + 3)),
  ],
)
def test_each_mode_has_its_logarithm(tmp_path, mode, log):
  rows = make_rows(50)
  raw = save(tmp_path / 'raw', rows)
  options = CriteoSettings(mode, splits='train=1', shuffle=False)
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  texts = {x for row in rows for x in row[1:14]}
  assert {'', '-1', '-2', '0'} <= texts
  dense = np.array([[int(x or '0') for x in row[1:14]] for row in rows])
  np.testing.assert_array_equal(
    whole(prepared.source('train')).dense, log(dense).astype(np.float32)
  )


def test_a_value_without_log_3_is_an_error(tmp_path):
  rows = make_rows(20)
  rows[7][4] = '-3'
  raw = save(tmp_path / 'raw', rows)
  options = CriteoSettings('torchrec', splits='train=1')
  with pytest.raises(InputError, match=r'raw, line 8, column I4: no log.*: -3'):
    prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)


def later(tmp_path, mode, value):
  """A set of a mode, and ids of a row read later that has another value."""
  rows = make_rows(200)
  raw = save(tmp_path / 'raw', rows)
  options = CriteoSettings(mode, splits='train=1', shuffle=False)
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  row = [*rows[3][:15], value, *rows[3][16:]]
  (block,) = read_raw(prepared, [save(tmp_path / 'later', [row])])
  return whole(prepared.source('train')).ids[3], block.ids[0]


def test_fb_has_no_row_for_a_value_that_comes_later(tmp_path):
  expected = 'later, line 1, column C2: unknown id: aaaaaaaa; .* no row for'
  with pytest.raises(InputError, match=expected):
    later(tmp_path, 'fb', 'aaaaaaaa')


def test_zero_that_comes_later_is_the_missing_value(tmp_path):
  before, after = later(tmp_path, 'fb', '00000000')
  (tmp_path / 'again').mkdir()
  _, missing = later(tmp_path / 'again', 'fb', '')
  np.testing.assert_array_equal(after, missing)
  np.testing.assert_array_equal(np.delete(after, 1), np.delete(before, 1))


def test_torchrec_has_row_1_for_a_value_that_comes_later(tmp_path):
  before, after = later(tmp_path, 'torchrec', 'aaaaaaaa')
  assert after[1] == 1
  np.testing.assert_array_equal(np.delete(after, 1), np.delete(before, 1))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'mode': 'fb', 'min_count': 2}, 'mode fb has a row for every value'),
    ({'mode': 'torchrec', 'max_ind_range': 9}, 'only mode fb takes values'),
    ({'mode': 'fb', 'hash_rows': 9}, 'exclude each other'),
    ({'mode': 'other'}, 'expected one of'),
  ],
)
def test_options_of_one_mode_do_not_fit_another(fields, message):
  with pytest.raises(InputError, match=message):
    criteo.CriteoSettings(**fields)
