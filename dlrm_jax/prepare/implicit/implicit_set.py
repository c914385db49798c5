"""Files of implicit feedback -> a prepared set with lists to rank.

Split train has a positive a row. Split validation has, for the last item of
each user, a list of 100 examples: that item with label 1, and 99 items that the
user does not have with label 0 (`leave_one_out`).

Vocabularies are counted over all rows of the files, so that an item that only
one user has, as the last one, is an item of the catalogue and has a row of its
own. All rows are in memory, some 100 bytes each.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data import manifest, shards
from dlrm_jax.data.folder import VOCABULARIES, vocabulary_path
from dlrm_jax.data.lists import IMPLICIT, ITEM, USER
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.records import Fields
from dlrm_jax.data.schema import Block, Column, Schema
from dlrm_jax.errors import InputError
from dlrm_jax.files import replacing
from dlrm_jax.prepare import notes
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.implicit.interactions import read_interactions
from dlrm_jax.prepare.implicit.leave_one_out import (
  CANDIDATES,
  HeldOut,
  Owned,
  held_out_rows,
  ranked_lists,
)
from dlrm_jax.prepare.inputs import expanded
from dlrm_jax.prepare.preparation import Settings
from dlrm_jax.prepare.stages.merge import VocabularyDigest
from dlrm_jax.prepare.stages.number import (
  Numbering,
  coders_without_tables,
  ids_digest,
)
from dlrm_jax.prepare.units import refusing_full_disk
from dlrm_jax.prepare.work import LAYOUT, unfinished
from dlrm_jax.vocabulary.columns import Columns, Sparse
from dlrm_jax.vocabulary.hashing import HASH
from dlrm_jax.vocabulary.keys import keys_of

COLUMNS = Columns((), (Sparse(USER), Sparse(ITEM)))
"""Columns of such a set."""

FIRST = 1
"""Row of the first user and item; row 0 is that of unknown ones."""


class _Coded(NamedTuple):
  """A column as rows of its table.

  Attributes:
    rows: row of each value, i32[n].
    vocabulary: frame of `key` and `count`, in the order of rows.
    counted: totals, as `stages.merge` gives them.
  """

  rows: np.ndarray
  vocabulary: pl.DataFrame
  counted: dict[str, Any]


def _coded(values: pl.Series) -> _Coded:
  """Numbers the values of a column, the most frequent first."""
  keys, _ = keys_of(values)
  distinct, inverse, counts = np.unique(
    keys, return_inverse=True, return_counts=True
  )
  order = np.argsort(-counts, kind='stable')  # equal counts by key
  row_of = np.empty(len(order), np.int32)
  row_of[order] = np.arange(FIRST, FIRST + len(order), dtype=np.int32)
  vocabulary = pl.DataFrame(
    {'key': distinct[order], 'count': counts[order].astype(np.int64)}
  )
  digest = VocabularyDigest()
  digest.add(vocabulary['key'])
  counted = {
    'kept': digest.rows,
    'digest': digest.hexdigest,
    'values': digest.rows,
    'total': len(keys),
    'unknown': 0,
    'missing': 0,
    'missing_place': 0,
    'first_row': FIRST,
  }
  return _Coded(row_of[inverse], vocabulary, counted)


class _Log(NamedTuple):
  """All rows of the files.

  Attributes:
    frame: user, item, time.
    files: name, bytes, rows and digest of each file.
    bad: the bad rows.
  """

  frame: pl.DataFrame
  files: list[dict[str, Any]]
  bad: BadRows


def _read(paths: Sequence[str], on_bad_row: str) -> _Log:
  bad = BadRows(on_bad_row)
  frames, files = [], []
  for path in paths:
    digest = hashlib.sha256()
    part = list(read_interactions(path, bad, digest.update))
    frames += [frame.drop('line') for frame in part]
    files.append(
      {
        'name': Path(path).name,
        'part': 'all',
        'bytes': notes.input_bytes(path),
        'digest': digest.hexdigest(),
        'rows': sum(frame.height for frame in part),
      }
    )
  frame = pl.concat(frames)
  if not frame.height:
    raise InputError(f'the input has no good rows ({", ".join(paths)})')
  return _Log(frame, files, bad)


def _write(
  folder: Path,
  splits: Mapping[str, Block],
  coded: Mapping[str, _Coded],
  details: Mapping[str, Any],
) -> None:
  """Writes the files of a set to a folder."""
  (folder / VOCABULARIES).mkdir(exist_ok=True)
  for name, column in coded.items():
    with replacing(vocabulary_path(folder, name)) as work:
      column.vocabulary.write_parquet(work)
  schema = Schema(
    (),
    tuple(
      Column(name, column.counted['kept'] + FIRST)
      for name, column in coded.items()
    ),
  )
  weighted = any(block.weights is not None for block in splits.values())
  fields = Fields.of(schema, weights=weighted)
  sizes = {name: len(block.labels) for name, block in splits.items()}
  origin = manifest.origin_of(schema, sizes, details)
  written = {}
  for name, block in splits.items():
    if weighted and block.weights is None:
      block = block._replace(weights=np.ones(sizes[name], np.float32))
    clicks = int(block.labels.sum())
    written[name] = manifest.Written(
      sizes[name], clicks, [[sizes[name], clicks]]
    )
    blocks, first = list(rebatch([block])), 0
    lengths = manifest.shard_lengths(fields, sizes[name])
    paths = manifest.shard_paths(folder, name, lengths)
    for path, length in zip(paths, lengths, strict=True):
      stamp = shards.Stamp(origin, manifest.split_stamp(name), first)
      shards.write_shard(path, fields, blocks[first : first + length], stamp)
      first += length
  scale = manifest.scale_of(1, np.zeros(0), np.zeros(0))
  manifest.write_manifest(folder, schema, fields, written, scale, details)


def _splits(
  coded: Mapping[str, _Coded], times: np.ndarray | None, seed: int
) -> tuple[dict[str, Block], HeldOut]:
  """The shuffled rows of split train, and the lists of split validation.

  Args:
    coded: the columns.
    times: times of the rows, f64[n]; None: nothing is held out.
    seed: seed of the order and of the negatives.
  """
  users, items = coded[USER].rows, coded[ITEM].rows
  catalogue = coded[ITEM].counted['kept']
  owned = Owned.of(users, items, FIRST + coded[USER].counted['kept'])
  held = HeldOut(np.zeros(0, np.int64), 0, 0)
  if times is not None:
    held = held_out_rows(users, times, owned.counts == catalogue)
  kept = np.ones(len(users), bool)
  kept[held.rows] = False
  order = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
  train = Block(
    np.empty((len(order), 0), np.float32),
    np.stack([users[order], items[order]], 1),
    np.ones((len(order), 1), np.float32),
  )
  if not len(held.rows):
    return {'train': train}, held
  lists = ranked_lists(
    users[held.rows], items[held.rows], owned, FIRST, catalogue, seed
  )
  return {'train': train, 'validation': lists}, held


def prepare_implicit(
  names: Sequence[str],
  output: str,
  *,
  hold_out: bool = True,
  seed: int = 0,
  on_bad_row: str = 'stop',
  overwrite: bool = False,
) -> None:
  """Writes a prepared set of implicit feedback.

  Args:
    names: files, folders of them, or globs.
    output: folder of the set.
    hold_out: whether the last item of each user is held out; else all rows
      are split train.
    seed: seed of the order of split train and of the negatives.
    on_bad_row: 'stop' or 'skip'.
    overwrite: whether to replace a prepared set.

  Raises:
    InputError: a line, an option or the output is wrong, or the disk is full.
  """
  paths = expanded(names)
  settings = Settings(
    splits=None,
    numbering=Numbering(everything=True),
    seed=seed,
    on_bad_row=on_bad_row,
  )
  described = {
    'format': IMPLICIT,
    'hold_out': 'last' if hold_out else 'none',
    'candidates': CANDIDATES,
  }
  plan = {
    'version': manifest.FORMAT,
    'layout': LAYOUT,
    'format': described,
    'options': dataclasses.asdict(settings),
    'files': [notes.file_identity(path) for path in paths],
  }
  with unfinished(output, json.loads(json.dumps(plan)), overwrite) as work:
    if work is None:
      return
    log = _read(paths, on_bad_row)
    coded = {name: _coded(log.frame[name]) for name in (USER, ITEM)}
    times = log.frame['time'].to_numpy() if hold_out else None
    splits, held = _splits(coded, times, seed)
    counted = {name: column.counted for name, column in coded.items()}
    numbering = settings.numbering.values
    coders = coders_without_tables(COLUMNS, counted, {}, numbering)
    details = {
      'kind': IMPLICIT,
      'format': described,
      'files': log.files,
      'options': dataclasses.asdict(settings),
      'hash': HASH,
      'ids': ids_digest(coders, counted, ()),
      'values': {USER: 'integer', ITEM: 'integer'},
      'columns': counted,
      'bad_rows': dict(log.bad.counts),
      'skipped': [*log.bad.report(), *_kept(held)],
      'lists': {'validation': 1 + CANDIDATES} if len(held.rows) else {},
    }
    with refusing_full_disk(work):
      _write(work / 'set', splits, coded, details)


def _kept(held: HeldOut) -> list[str]:
  """Lines about users without a list."""
  lines = []
  if held.single:
    lines.append(f'{held.single:,} users with a single row: it stays in train')
  if held.everything:
    lines.append(
      f'{held.everything:,} users who have every item: all stays in train'
    )
  return lines
