"""Bags made up as MLPerf does, beside a plain definition of them."""

import numpy as np
import pytest

from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import join
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.__main__ import main
from dlrm_jax.prepare.criteo.settings import CriteoSettings
from dlrm_jax.prepare.known_ids import read_raw
from dlrm_jax.prepare.stages import multi_hot
from tests.sets import prepare_criteo

HOTNESS = (3, 2, 1, 5, *[1] * 20, 4, 2)
TABLES = (7, 500, 4, 9, *[50] * 20, 1, 90)
DAY = '1' + 13 * '\t4'


def made_up(tables, hotness):
  """The definition: whole tables, one call each."""
  random = np.random.RandomState(0)
  found = []
  for rows, ids in zip(tables, hotness, strict=True):
    others = random.randint(0, rows, size=(rows, ids - 1))
    found.append(np.concatenate([np.arange(rows)[:, None], others], axis=1))
  return found


def save(path, rows, seed=0):
  ids = np.random.default_rng(seed).zipf(1.4, (rows, 26)) % 997
  lines = [
    DAY + ''.join(f'\t{x:08x}' if x % 5 else '\t' for x in row)
    for row in ids.tolist()
  ]
  path.write_text('\n'.join(lines) + '\n')
  return str(path)


def whole(source):
  return join([source[i] for i in range(len(source))])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(multi_hot, '_CHUNK', 101)


@pytest.fixture
def raw(tmp_path):
  return save(tmp_path / 'raw', 120)


def both(raw, folder, plain, **more):
  """A set without bags and one with them, of the same log."""
  sets = []
  for name, extra in (('one', {}), ('bags', more)):
    fields = {'splits': 'train=1', 'shuffle': False} | plain | extra
    out = str(folder / name)
    sets.append(prepare_criteo({'all': [raw]}, out, CriteoSettings(**fields)))
  return sets


def check(ids, bags, tables):
  """Every id became its row of the definition's table."""
  start = 0
  for number, table in enumerate(made_up(tables, HOTNESS)):
    stop = start + table.shape[1]
    np.testing.assert_array_equal(
      bags[:, start:stop], table[ids[:, number] % len(table)]
    )
    start = stop
  assert start == bags.shape[1]


@pytest.mark.parametrize('plain', [{'mode': 'frequency'}, {'hash_rows': 30}])
def test_bags_are_those_of_the_definition(tmp_path, raw, plain):
  one, bags = both(raw, tmp_path, plain, multi_hot=HOTNESS)
  tables = [column.rows for column in one.schema.sparse]
  assert [column.rows for column in bags.schema.sparse] == tables
  assert tuple(column.hotness for column in bags.schema.sparse) == HOTNESS
  ids, made = (whole(x.source('train')).ids for x in (one, bags))
  check(ids, made, tables)


def test_bags_of_all_tables_are_one_stream(tmp_path):
  paths = (tmp_path / 'C1', tmp_path / 'C2')
  unit = multi_hot.Draw(paths, (7, 500), (2, 1), tmp_path / 'drawn.json')
  multi_hot.draw_bags(unit)
  tables = made_up((7, 500), (3, 2))
  for path, table in zip(paths, tables, strict=True):
    drawn = np.fromfile(path, np.int32)
    np.testing.assert_array_equal(drawn, table[:, 1:].ravel())


def test_ids_are_taken_modulo_the_rows_of_a_table(tmp_path, raw):
  plain = {'mode': 'torchrec'}
  more = {'num_embeddings': TABLES, 'multi_hot': HOTNESS}
  one, bags = both(raw, tmp_path, plain, **more)
  assert tuple(column.rows for column in bags.schema.sparse) == TABLES
  ids = whole(one.source('train')).ids
  assert (ids.max(axis=0) >= TABLES).any()
  check(ids, whole(bags.source('train')).ids, TABLES)
  assert bags.counts('C1') is None  # they are of ids before the modulo
  (block,) = read_raw(bags, [raw])
  check(ids, block.ids, TABLES)


def test_rows_of_tables_need_no_bags(tmp_path, raw):
  plain = {'mode': 'torchrec'}
  one, taken = both(raw, tmp_path, plain, num_embeddings=TABLES)
  np.testing.assert_array_equal(
    whole(taken.source('train')).ids, whole(one.source('train')).ids % TABLES
  )


def test_a_value_without_a_row_has_none_modulo_either(tmp_path, raw):
  tables = (1, *TABLES[1:])
  options = CriteoSettings('fb', num_embeddings=tables, splits='train=1')
  bags = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  line = f'{DAY}\taaaaaaaa{25 * chr(9)}\n'
  (tmp_path / 'later').write_text(line)
  with pytest.raises(InputError, match='column C1: unknown id: aaaaaaaa'):
    list(read_raw(bags, [str(tmp_path / 'later')]))


def test_a_log_prepared_later_has_the_tables_and_bags_of_the_first(
  tmp_path, raw
):
  out = tmp_path / 'set'
  main(
    [
      *('criteo', f'--input={raw}', f'--output={out}', '--keep_order'),
      *('--mode=torchrec', '--min_count=1'),
      f'--multi_hot={",".join(map(str, HOTNESS))}',
      f'--num_embeddings={",".join(map(str, TABLES))}',
    ]
  )
  made = open_prepared(out)
  columns = made.schema.sparse
  assert tuple(c.rows for c in columns) == TABLES
  assert tuple(c.hotness for c in columns) == HOTNESS
  later = tmp_path / 'later'
  main(['criteo', f'--input={raw}', f'--output={later}', f'--vocabulary={out}'])
  ids = [whole(made.source(split)).ids for split in made.splits]
  np.testing.assert_array_equal(
    whole(open_prepared(later).source('test')).ids, np.concatenate(ids)
  )


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('3,2', '--flag: 2 numbers; expected 3, one a sparse feature'),
    ('3,0,1', "--flag: number 2 is '0'; expected 1 ... 9"),
    ('3,2,x', "--flag: number 3 is 'x'; expected 1 ... 9"),
    ('3,10,1', "--flag: number 2 is '10'; expected 1 ... 9"),
  ],
)
def test_wrong_numbers_are_named(text, message):
  with pytest.raises(InputError) as error:
    multi_hot.numbers_by_feature('--flag', text, 3, 9)
  assert str(error.value) == message


def test_hashing_says_itself_how_many_rows_there_are():
  with pytest.raises(InputError, match='both say how many rows'):
    CriteoSettings(hash_rows=30, num_embeddings=TABLES)
