import numpy as np
import pytest

from dlrm_jax.data.lists import Lists
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.implicit import list_files
from dlrm_jax.prepare.implicit.implicit_set import prepare_implicit

TRAIN = '5\t10\n5\t11\n5\t12\n6\t10\n6\t13\n6\t11\n7\t14\n'
RATING = '5\t14\t1\t9\n6\t12\t1\t9\n'
NEGATIVE = '(5,14)\t13\t12\t10\n(6,12)\t12\t14\t99\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'train').write_text(TRAIN)
  prepare_implicit(['train'], 'set')
  return tmp_path


@pytest.fixture
def read(place):
  """All lists of two files: shape and arrays; counts of what is changed."""

  def run(rating=RATING, negative=NEGATIVE, on_bad_row='stop'):
    (place / 'rating').write_text(rating)
    (place / 'negative').write_text(negative)
    bad = BadRows(on_bad_row)
    lists, blocks = list_files.read_lists(
      open_prepared('set'), 'rating', 'negative', bad
    )
    blocks = list(blocks)
    ids = np.concatenate([block.ids for block in blocks])
    weights = np.concatenate([block.weights for block in blocks])
    return lists, ids, weights, bad

  return run


def row_of(prepared, *items):
  """Rows of items."""
  import polars as pl

  keys = pl.read_parquet(f'{prepared.directory}/vocabulary/item.parquet')['key']
  return [keys.to_list().index(item) + 1 for item in items]


def test_lists_have_the_positive_first_and_unknown_items_in_row_0(read):
  lists, ids, weights, bad = read()
  assert lists == Lists(4)
  items = ids[:, 1].reshape(2, 4)
  prepared = open_prepared('set')
  assert items[0].tolist() == row_of(prepared, 14, 13, 12, 10)
  assert items[1].tolist() == [*row_of(prepared, 12, 12, 14), 0]
  assert (ids[:4, 0] == ids[0, 0]).all()
  assert ids[0, 0] != ids[4, 0]
  assert bad.changed == {
    'unknown candidate of a list': 1,
    'candidate that is the positive itself, left out': 1,
  }
  assert weights.reshape(2, 4).tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]


def test_unknown_users_are_counted(read):
  _, ids, _, bad = read('77\t10\n', '(77,10)\t11\n')
  assert ids[:, 0].tolist() == [0, 0]
  assert bad.changed == {'unknown user of a list': 1}


BAD = {
  'another pair': (RATING, '(5,14)\t1\n(6,13)\t2\n', ['line 2', '(6,12)']),
  'no pair': (RATING, '(5,14)\t1\n6,12\t2\n', ['line 2', "'6,12'"]),
  'no number': (RATING, '(5,14)\t1\n(6,12)\tx\n', ['line 2', "'x'"]),
  'other length': (RATING, '(5,14)\t1\n(6,12)\t2\t3\n', ['line 2', '3 col']),
  'too few': (RATING, '(5,14)\t1\n', ['1 lines', 'rating has 2']),
  'too many': (
    RATING,
    '(5,14)\t1\n(6,12)\t2\n(7,10)\t3\n',
    ['line 3', '2 lines as in rating'],
  ),
  'no candidates': (RATING, '(5,14)\n(6,12)\n', ['line 1', 'no tab']),
}


@pytest.mark.parametrize('name', BAD)
def test_files_that_do_not_belong_together_are_one_line_of_error(name, read):
  rating, negative, words = BAD[name]
  with pytest.raises(InputError) as error:
    read(rating, negative)
  message = str(error.value)
  assert '\n' not in message
  for word in ['negative', *words]:
    assert word in message, message


def test_skipped_lines_of_either_file_take_their_list_along(read):
  rating = '5\tx\t1\t9\n6\t12\t1\t9\n5\t14\t1\t9\n'
  negative = '(5,14)\t10\n(6,12)\t14\n(5,14)\tx\n'
  _, ids, _, bad = read(rating, negative, 'skip')
  assert ids[:, 1].tolist() == row_of(open_prepared('set'), 12, 14)
  assert sum(bad.counts.values()) == 2


@pytest.mark.parametrize('piece', [3, 4, 100])
def test_the_catalogue_is_all_items_that_the_user_does_not_have(
  piece, place, monkeypatch
):
  monkeypatch.setattr(list_files, '_PIECE', piece)
  prepared = open_prepared('set')
  owned = list_files.owned_items(prepared)
  users = {5: {10, 11, 12}, 6: {10, 11, 13}, 7: {14}}
  (place / 'rating').write_text('5\t14\n6\t13\n7\t99\n')
  positives = list_files.read_positives(prepared, ['rating'], BadRows())
  lists, blocks = list_files.over_catalogue(positives, owned, 5)
  block = next(blocks)
  assert not list(blocks)
  assert lists.length <= piece + 1
  items = block.ids[:, 1].reshape(3, lists.pieces, lists.length)
  weights = block.weights.reshape(items.shape)
  for k, (user, item) in enumerate([(5, 14), (6, 13), (7, None)]):
    first = row_of(prepared, item)[0] if item else 0
    assert (items[k, :, 0] == first).all()
    assert (weights[k, :, 0] == 1).all()
    left = items[k, :, 1:][weights[k, :, 1:] > 0]
    others = {10, 11, 12, 13, 14} - users[user] - {item}
    assert sorted(left) == sorted(row_of(prepared, *others))
