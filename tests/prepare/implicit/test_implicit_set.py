import collections

import numpy as np
import polars as pl
import pytest

from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.inspect import __main__ as inspect
from dlrm_jax.prepare.__main__ import main

ROWS = [
  # user, item, time
  (5, 100, 3),
  (5, 101, 9),
  (5, 102, 9),  # the last of two of one time
  (6, 100, 8),  # the last by time, not by place
  (6, 103, 2),
  (7, 104, 1),  # a single row
  (8, 900, 4),
  (8, 100, 3),
]
ITEMS = {100, 101, 102, 103, 104, 900}


def text(rows, columns=4):
  fields = [(user, item, 5, time)[:columns] for user, item, time in rows]
  return ''.join('\t'.join(map(str, row)) + '\n' for row in fields)


@pytest.fixture
def prepare(tmp_path):
  def run(content, *flags, name='set'):
    (tmp_path / 'train.rating').write_text(content)
    status = main(
      [
        'implicit',
        f'--input={tmp_path / "train.rating"}',
        f'--output={tmp_path / name}',
        *flags,
      ]
    )
    return open_prepared(tmp_path / name) if status == 0 else None

  return run


def pairs(prepared, split):
  """User, item, label and weight of the examples of a split, as in the file."""
  block = prepared.source(split)[0]
  values = []
  for name, ids in zip(('user', 'item'), block.ids.T, strict=True):
    path = f'{prepared.directory}/vocabulary/{name}.parquet'
    keys = pl.read_parquet(path)['key'].to_numpy()
    values.append(keys[ids - 1].tolist())
  weights = np.ones(len(block.ids)) if block.weights is None else block.weights
  return list(
    zip(*values, block.labels[:, 0].tolist(), weights.tolist(), strict=True)
  )


def test_the_last_item_of_each_user_is_held_out(prepare, capsys):
  prepared = prepare(text(ROWS))
  train = {(user, item) for user, item, _, _ in pairs(prepared, 'train')}
  lists = pairs(prepared, 'validation')
  held = {(user, item) for user, item, label, _ in lists if label}
  assert held == {(5, 102), (6, 100), (8, 900)}
  assert train == {(user, item) for user, item, _ in ROWS} - held
  assert (
    '1 users with a single row: it stays in train' in capsys.readouterr().out
  )


def test_lists_have_distinct_items_that_the_user_does_not_have(prepare):
  prepared = prepare(text(ROWS))
  assert prepared.details['lists'] == {'validation': 100}
  found = collections.defaultdict(list)
  for user, item, label, weight in pairs(prepared, 'validation'):
    if not label and weight:
      found[user].append(item)
  owned = collections.defaultdict(set)
  for user, item, _ in ROWS:
    owned[user].add(item)
  for user in (5, 6, 8):
    assert sorted(found[user]) == sorted(ITEMS - owned[user])


def test_an_item_that_is_only_held_out_has_a_row_of_its_own(prepare):
  prepared = prepare(text(ROWS))
  assert [column.rows for column in prepared.schema.sparse] == [5, 7]
  assert 900 in {item for _, item, _, _ in pairs(prepared, 'validation')}


@pytest.mark.parametrize('columns', [2, 3])
def test_without_times_the_order_of_the_file_counts(prepare, columns):
  prepared = prepare(text(ROWS, columns))
  held = {(u, i) for u, i, label, _ in pairs(prepared, 'validation') if label}
  assert held == {(5, 102), (6, 103), (8, 100)}


def test_a_user_who_has_everything_is_not_held_out(prepare, capsys):
  prepared = prepare('1\t1\n1\t2\n1\t3\n2\t1\n2\t2\n')
  held = {(u, i) for u, i, label, _ in pairs(prepared, 'validation') if label}
  assert held == {(2, 2)}
  assert '1 users who have every item' in capsys.readouterr().out


def test_without_a_user_of_two_rows_there_is_no_validation(prepare):
  prepared = prepare('1\t1\n2\t2\n')
  assert list(prepared.splits) == ['train']


def test_nothing_may_be_held_out(prepare, capsys):
  prepared = prepare(text(ROWS), '--hold_out=none')
  assert prepared.splits == {'train': len(ROWS)}
  assert 'WARNING' not in capsys.readouterr().out


def many(users=40, items=300, rows=2000):
  rng = np.random.default_rng(0)
  return text(
    zip(
      rng.integers(0, users, rows),
      rng.integers(0, items, rows),
      rng.integers(0, 50, rows),
      strict=True,
    )
  )


def test_negatives_and_order_are_functions_of_the_seed(prepare):
  a, b, c = (
    prepare(many(), f'--seed={seed}', name=name)
    for name, seed in (('a', 3), ('b', 3), ('c', 4))
  )
  assert a.fingerprint == b.fingerprint != c.fingerprint
  for split in ('train', 'validation'):
    ids = [x.source(split)[0].ids for x in (a, b, c)]
    np.testing.assert_array_equal(ids[0], ids[1])
    assert (ids[0] != ids[2]).any()
  # What is held out does not depend on the seed.
  held = [x.source('validation')[0].ids[::100] for x in (a, c)]
  np.testing.assert_array_equal(*held)
  assert a.source('validation')[0].weights is None


def test_a_set_can_be_inspected(prepare, capsys):
  prepared = prepare(many())
  assert inspect.main([prepared.directory]) == 0
  assert 'item' in capsys.readouterr().out


BAD = {
  'columns': ('1\t2\t3\t4\t5\n', ['line 1', '5 columns', 'user, item']),
  'too few': ('1\t2\t3\t4\n1\t2\t3\n', ['line 2', '3 columns']),
  'words': ('1\t2\t3\t4\n1\tx\t3\t4\n', ['line 2', 'item', "'x'", 'whole']),
  'no user': ('1\t2\t3\t4\n\t2\t3\t4\n', ['line 2', 'user', 'nothing']),
  'no time': ('1\t2\t3\t4\n1\t2\t3\tnan\n', ['line 2', 'time', "'nan'"]),
  'nothing': ('', ['train.rating', 'empty']),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_line_is_one_line_of_error(name, prepare, tmp_path, capsys):
  content, words = BAD[name]
  assert prepare(content) is None
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  for word in ['train.rating', *words]:
    assert word in error, error
  assert not (tmp_path / 'set').exists()
  assert not (tmp_path / 'set.unfinished').exists()


def test_bad_lines_can_be_skipped_and_are_counted(prepare, capsys):
  prepared = prepare(text(ROWS) + '1\tx\t3\t4\n', '--on_bad_row=skip')
  assert 'skipped 1 x bad id' in capsys.readouterr().out
  assert prepared.details['bad_rows'] == {'bad id': 1}
  assert len(pairs(prepared, 'train')) == len(ROWS) - 3
