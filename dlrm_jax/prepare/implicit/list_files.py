"""Lists to rank, from raw files: with given candidates, or the catalogue.

A file of candidates has a line for each line of the file of positives:

    (user,item)<TAB>candidate<TAB>candidate ...

as in the files `test.rating` and `test.negative` of He et al. 2017. Values
that training never saw become the unknown row; they are counted.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from dlrm_jax.batch import PAD
from dlrm_jax.data.lists import ITEM, USER, Lists
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.schema import Block
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows, Fault, shorten
from dlrm_jax.prepare.implicit.implicit_set import COLUMNS, FIRST
from dlrm_jax.prepare.implicit.interactions import LINE, read_interactions
from dlrm_jax.prepare.implicit.leave_one_out import Owned
from dlrm_jax.prepare.known_ids import coders_of
from dlrm_jax.prepare.readers.csv_lines import Csv
from dlrm_jax.prepare.readers.lines import Lines, cut, first_line
from dlrm_jax.vocabulary.coder import Coder
from dlrm_jax.vocabulary.policy import STOP

_EXPECTED = 'lines of (user,item) and its candidates between tabs'
_PAIR = r'^\((-?\d+), ?(-?\d+)\)$'
_PIECE = 4096  # most examples of a piece of a list over the catalogue
_AT_ONCE = 1 << 18  # examples of a block, about


def read_positives(
  prepared: Prepared, paths: Sequence[str], bad: BadRows
) -> Iterator[np.ndarray]:
  """Users and items of raw files as rows of a set, i32[n, 2] in parts.

  Args:
    prepared: the set that a model was trained on.
    paths: files of `user item rating time`.
    bad: receives bad lines, and counts of values that are unknown.
  """
  with tempfile.TemporaryDirectory() as work:
    coded = _Coded(prepared, Path(work), bad)
    for path in paths:
      for frame in read_interactions(path, bad):
        yield coded.pairs(frame)


def read_lists(
  prepared: Prepared, path: str, candidates: str, bad: BadRows
) -> tuple[Lists, Iterator[Block]]:
  """Lists of given candidates; one that is the positive itself is left out.

  Args:
    prepared: the set that a model was trained on.
    path: file of the positives; a frame of three numbers a line is in memory.
    candidates: file of the candidates, with a line for each line of `path`.
    bad: receives bad lines, and counts of values that are unknown or left out.

  Raises:
    InputError: a line is bad; while the blocks are read, also if the lines of
      the two files do not belong together.
  """
  count = len(first_line(candidates, _EXPECTED).split(b'\t')) - 1
  if count < 1:
    raise InputError(
      f'{candidates}, line 1: no tab in it; expected {_EXPECTED}'
    )
  wanted = pl.concat(read_interactions(path, bad)).select(USER, ITEM, LINE)
  if not wanted.height:
    raise InputError(f'{path}: no good line, expected one for each list')

  def blocks() -> Iterator[Block]:
    with tempfile.TemporaryDirectory() as work:
      coded = _Coded(prepared, Path(work), bad)
      for found in _read_candidates(path, wanted, candidates, count, bad):
        yield coded.lists(found, count)

  return Lists(1 + count), blocks()


def _read_candidates(
  path: str, wanted: pl.DataFrame, candidates: str, count: int, bad: BadRows
) -> Iterator[pl.DataFrame]:
  """Positives and candidates, in frames of user, item, '1', '2' ...

  Args:
    path: file of the positives, for messages.
    wanted: user, item and line of each positive.
    candidates: file of the candidates.
    count: number of candidates of each list.
    bad: receives bad lines.
  """
  names = tuple(map(str, range(count + 1)))
  csv = Csv(names, '\t', quoted=False, multiline=False)
  (piece,) = cut(candidates, _EXPECTED, whole=True)
  lines, last = Lines(piece, bad), wanted[LINE][-1]
  for text in lines.chunks(lambda data: None):
    frame, numbers, faults = csv.parse(text, names)
    for offset, fault in faults:
      lines.add(offset, fault)
    offsets = np.arange(frame.height) if numbers is None else numbers
    found = _values(frame, np.asarray(offsets) + lines.line + 1)
    found = found.join(wanted, LINE, 'left', maintain_order='left')
    good = np.ones(found.height, bool)
    for row, fault in _faults(frame, found, last, path):
      good[row] = False
      if fault is not None:
        lines.add(int(offsets[row]), fault)
    yield found.filter(good)
    lines.line += text.count(b'\n')
  if last > lines.line:
    raise InputError(
      f'{candidates}: {lines.line:,} lines, but {path} has {last:,}; expected '
      f'a list for each line there'
    )


class _Coded:
  """Turns values into rows of a set."""

  def __init__(self, prepared: Prepared, work: Path, bad: BadRows) -> None:
    """Builds the lookup tables of the vocabularies in the folder `work`."""
    self._bad = bad
    self._user, self._item = coders_of(prepared, COLUMNS, work, STOP)

  def _rows(self, coder: Coder, values: pl.Series, what: str) -> np.ndarray:
    """Rows of values, i32[n]; unknown ones are counted."""
    places = coder.places_of(values, range(len(coder.tables)))
    rows = coder.rows_of(values, places)
    self._bad.change(f'unknown {what}', int(np.sum(rows < FIRST)))
    return rows

  def pairs(self, values: pl.DataFrame) -> np.ndarray:
    """Rows of users and items, i32[n, 2]."""
    users = self._rows(self._user, values[USER], 'user of a list')
    items = self._rows(self._item, values[ITEM], 'positive item of a list')
    return np.stack([users, items], 1)

  def lists(self, found: pl.DataFrame, count: int) -> Block:
    """Whole lists of positives and their candidates."""
    ids = np.empty((found.height, 1 + count, 2), np.int32)
    positives = self.pairs(found)
    ids[:, :, 0] = positives[:, :1]
    ids[:, 0, 1] = positives[:, 1]
    items = found.select(map(str, range(1, count + 1))).to_numpy()
    flat = pl.Series(items.reshape(-1))
    rows = self._rows(self._item, flat, 'candidate of a list')
    ids[:, 1:, 1] = rows.reshape(-1, count)
    again = items == found[ITEM].to_numpy()[:, None]
    self._bad.change(
      'candidate that is the positive itself, left out', int(again.sum())
    )
    weights = np.ones((found.height, 1 + count), np.float32)
    weights[:, 1:][again] = 0
    return _block(ids, weights)


def _values(frame: pl.DataFrame, lines: np.ndarray) -> pl.DataFrame:
  """Texts of lists -> numbers, null where a text is none.

  Args:
    frame: columns '0' (the pair), '1', '2' ... (the candidates).
    lines: number of each line, i64[n].

  Returns:
    Frame of given_user, given_item, '1', '2' ..., and line.
  """
  return frame.select(
    pl.col('0')
    .str.extract(_PAIR, 1)
    .cast(pl.Int64, strict=False)
    .alias('given_user'),
    pl.col('0')
    .str.extract(_PAIR, 2)
    .cast(pl.Int64, strict=False)
    .alias('given_item'),
    pl.exclude('0').cast(pl.Int64, strict=False),
    pl.Series(LINE, lines, pl.UInt32),
  )


def _faults(
  frame: pl.DataFrame, found: pl.DataFrame, last: int, path: str
) -> Iterator[tuple[int, Fault | None]]:
  """Rows without a list; None where the positive itself was a bad line.

  Args:
    frame: the texts of the lists.
    found: their numbers, and user and item of their line of the positives.
    last: number of the last line of the positives.
    path: file of the positives.
  """
  same = (pl.col('given_user') == pl.col(USER)) & (
    pl.col('given_item') == pl.col(ITEM)
  )
  whole = pl.all_horizontal(pl.all().is_not_null()) & same.fill_null(False)
  for row in np.flatnonzero(~found.select(whole).to_series().to_numpy()):
    texts, values = frame.row(int(row)), found.row(int(row), named=True)
    numbers = [values[str(k)] for k in range(1, len(texts))]
    if values['given_user'] is None or values['given_item'] is None:
      fault = Fault('bad pair', None, shorten(texts[0]), '(user,item)')
    elif None in numbers:
      at = numbers.index(None) + 1
      value = shorten(texts[at])
      fault = Fault('bad id', f'{at + 1}', value, 'a whole number')
    elif values[USER] is None:
      if values[LINE] < last:  # It is a bad line there, and was reported.
        yield int(row), None
        continue
      fault = Fault(
        'extra line', None, texts[0], f'{last:,} lines as in {path}'
      )
    else:
      there = f'({values[USER]},{values[ITEM]}), as line {values[LINE]:,} of'
      fault = Fault('other pair', None, texts[0], f'{there} {path} says')
    yield int(row), fault


def _block(ids: np.ndarray, weights: np.ndarray) -> Block:
  """Lists i32[n, L, 2], whose positives come first -> n L examples."""
  labels = np.zeros(weights.shape, np.float32)
  labels[:, 0] = 1
  return Block(
    np.empty((weights.size, 0), np.float32),
    ids.reshape(-1, 2),
    labels.reshape(-1, 1),
    None,
    weights.reshape(-1),
  )


def owned_items(prepared: Prepared) -> Owned:
  """The items that each user has in a set, in train and held out.

  They are in memory, 8 bytes each.
  """
  pairs = []
  for split in prepared.splits:
    source = prepared.source(split)
    for number in range(len(source)):
      block = source[number]
      pairs.append(block.ids[block.labels[:, 0] == 1])
  users, items = np.concatenate(pairs).T
  return Owned.of(users, items, prepared.schema.sparse[0].rows)


def over_catalogue(
  positives: Iterable[np.ndarray], owned: Owned, items: int
) -> tuple[Lists, Iterator[Block]]:
  """Lists of a positive and all items of the catalogue.

  Items that the user has (`owned_items`) are left out, and the positive itself.

  Args:
    positives: users and items, i32[n, 2] in parts.
    owned: the items of each user.
    items: number of items of the catalogue.
  """
  pieces = -(-items // _PIECE)
  lists = Lists(1 + -(-items // pieces), pieces)

  def blocks() -> Iterator[Block]:
    at_once = max(1, _AT_ONCE // (lists.length * pieces))
    for part in positives:
      for start in range(0, len(part), at_once):
        yield _catalogue_block(
          part[start : start + at_once], owned, items, lists
        )

  return lists, blocks()


def _catalogue_block(
  positives: np.ndarray, owned: Owned, items: int, lists: Lists
) -> Block:
  count, width = len(positives), lists.length - 1
  # Columns behind the last item only fill the last piece.
  weights = np.zeros((count, lists.pieces * width), np.float32)
  weights[:, :items] = 1
  for row, (user, item) in enumerate(positives.tolist()):
    weights[row, owned.of_user(user) - FIRST] = 0
    if item >= FIRST:
      weights[row, item - FIRST] = 0
  catalogue = np.full(lists.pieces * width, PAD, np.int32)
  catalogue[:items] = np.arange(FIRST, FIRST + items)
  shape = (count, lists.pieces, width)
  ids = np.empty((count, lists.pieces, 1 + width, 2), np.int32)
  ids[..., 0] = positives[:, 0, None, None]
  ids[:, :, 0, 1] = positives[:, 1, None]
  ids[:, :, 1:, 1] = catalogue.reshape(shape[1:])
  whole = np.ones(ids.shape[:-1], np.float32)
  whole[:, :, 1:] = weights.reshape(shape)
  return _block(
    ids.reshape(-1, lists.length, 2), whole.reshape(-1, lists.length)
  )
