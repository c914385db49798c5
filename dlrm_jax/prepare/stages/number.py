"""Stages 2 and 3 together: parts of the spool -> vocabularies -> coders."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data.folder import VOCABULARIES
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.errors import InputError
from dlrm_jax.files import read_json, replacing
from dlrm_jax.prepare.budget import Budget
from dlrm_jax.prepare.stages.count import Count, count, grouped, mark_of
from dlrm_jax.prepare.stages.merge import Digest, Merge, merge
from dlrm_jax.prepare.stages.mix import Group
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.units import Stage, mend
from dlrm_jax.vocabulary.coder import Coder, Values, share_of
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse
from dlrm_jax.vocabulary.lookup import BUILD_BYTES, TABLE_BYTES, Lookup


@dataclasses.dataclass(frozen=True)
class Numbering:
  """How the values of a column with a vocabulary are numbered.

  Attributes:
    order: of the rows: 'frequency' or 'appearance'.
    base: row of the first value; the row before is for unknown values, if
      there is one.
    min_count: values that occur in fewer rows are unknown.
    everything: whether all rows are counted, not only those of split train.
    values: what is done to values first.
  """

  order: str = 'frequency'
  base: int = 1
  min_count: int = 1
  everything: bool = False
  values: Values = Values()  # noqa: RUF009, a tuple


def numbering_of(details: Mapping[str, Any]) -> Numbering:
  """The numbering of a set, of what the set says of itself."""
  said = dict(details['options']['numbering'])
  return Numbering(**said | {'values': Values(*said['values'])})


MAX_ROWS = 2**31 - 1
"""Of a table: ids are int32."""


class Build(NamedTuple):
  """A unit: one lookup table of a vocabulary.

  Attributes:
    vocabulary: its file.
    number: of the table.
    shares: how many tables the vocabulary is cut in.
    digest: of its keys, when it was made.
    output: file of the table.
  """

  vocabulary: Path
  number: int
  shares: int
  digest: str
  output: Path

  def sound(self) -> bool:
    """Whether the table can be mapped."""
    try:
      Lookup.open(self.output)
    except (OSError, ValueError, EOFError):
      return False
    return True


_CHUNK = 1 << 22


def build(unit: Build) -> None:
  """Reads the vocabulary in chunks, keeps the keys of this table.

  Raises:
    InputError: it is damaged, or another one.
  """
  seen = Digest()
  keys, rows = [], []
  for chunk in _chunks(unit.vocabulary):
    row = np.arange(seen.rows + 1, seen.rows + 1 + chunk.height, dtype=np.int32)
    seen.add(chunk['key'])
    known = chunk['key'].is_not_null().to_numpy()
    key = chunk['key'].drop_nulls().to_numpy()
    mine = share_of(key, unit.shares) == unit.number
    keys.append(key[mine])
    rows.append(row[known][mine])
  if seen.hexdigest != unit.digest:
    raise _damaged(unit.vocabulary, 'not the values that were counted')
  table = Lookup.of(np.concatenate(keys), np.concatenate(rows))
  with replacing(unit.output, synced=False) as work, work.open('wb') as file:
    np.save(file, table.array)


def _chunks(path: Path) -> Iterator[pl.DataFrame]:
  """Keys of a vocabulary, at least one frame of them."""
  start = 0
  while True:
    try:
      frame = pl.scan_parquet(path).select('key').slice(start, _CHUNK).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
      raise _damaged(path, str(error).splitlines()[0]) from error
    if start and not frame.height:
      return
    yield frame
    start += _CHUNK


def _damaged(path: Path, why: str) -> InputError:
  return InputError(f'{path}: damaged ({why}); prepare the set again')


def make(
  stage: Stage,
  work: Path,
  columns: Columns,
  slices: Sequence[Slice],
  numbering: Numbering,
  budget: Budget,
  need: Callable[[Sequence[Slice]], None],
) -> dict[str, dict[str, Any]]:
  """Counts, and writes vocabularies to the set.

  Args:
    stage: runs units.
    work: folder of the work.
    columns: of the spool.
    slices: of the spool.
    numbering: of values.
    budget: what memory there is.
    need: makes sure that slices of the spool can be read.

  Returns:
    What was counted, by column.
  """
  wanted = tuple(c for c in columns.sparse if c.ids == 'vocabulary')
  if not wanted:
    return {}
  for name in ('counts', 'merged', f'set/{VOCABULARIES}'):
    (work / name).mkdir(exist_ok=True)
  parts = [s for s in slices if numbering.everything or s.split == 'train']
  places = numbering.order == 'appearance'
  counts = [
    Count(
      *(wanted, group, number, numbering.values, places),
      output=mark_of(work / 'counts', number),
    )
    for number, group in enumerate(grouped(parts))
  ]
  merges = [
    Merge(
      column=column.name,
      runs=work / 'counts',
      count=len(counts),
      order=numbering.order,
      min_count=numbering.min_count,
      memory=budget.worker // 2,
      vocabulary=vocabulary_path(work / 'set', column.name),
      output=work / f'merged/{column.name}.json',
    )
    for column in wanted
  ]
  if mend(merges):
    need([part for unit in mend(counts) for part in unit.slices])
    stage('count', count, counts)
    stage('merge', merge, merges)
  shutil.rmtree(work / 'counts')
  return {
    unit.column: read_json(unit.output)['counted']
    | {'first_row': numbering.base}
    for unit in merges
  }


def copy(known: Prepared, folder: Path) -> dict[str, dict[str, Any]]:
  """Gives a set the vocabularies of another; what was counted for them."""
  counted = known.details['columns']
  (folder / VOCABULARIES).mkdir(exist_ok=True)
  for name in counted:
    there = vocabulary_path(Path(known.directory), name)
    if not there.exists():
      raise _damaged(there, 'the file is missing')
    copied = vocabulary_path(folder, name)
    with replacing(copied, synced=False) as work:
      shutil.copyfile(there, work)
  return dict(counted)


def vocabulary_path(folder: Path, column: str) -> Path:
  """Where a set has the vocabulary of a column."""
  return folder / VOCABULARIES / f'{column}.parquet'


def ids_digest(
  coders: Sequence[Coder],
  counted: Mapping[str, Any],
  dense: Sequence[Dense],
) -> str:
  """Equal where equal values of equal kinds get equal rows, and numbers.

  Kinds of values (`value_kind`) are kept beside it: sets of before they were
  kept have the same digests as sets of now.

  Args:
    coders: of the sparse columns.
    counted: of those with a vocabulary.
    dense: the dense columns.
  """
  said: list[tuple[Any, ...]] = [
    (
      coder.column.name,
      coder.rows,
      coder.column.ids,
      coder.hotness if coder.column.expand else 1,
      coder.prepare,
      counted.get(coder.column.name, {}).get('digest'),
      counted.get(coder.column.name, {}).get('first_row'),
    )
    for coder in coders
  ]
  said.append(tuple(column.transform for column in dense))
  return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


_KINDS = {'String': 'string', 'UInt32': 'hex'}


def value_kind(dtype: str) -> str:
  """How keys are made of values of a type, a word of `raw_schema.VALUES`.

  Equal text of two kinds has other keys, and other rows.

  >>> value_kind('List(Int64)')
  'integer'
  """
  return _KINDS.get(dtype.removeprefix('List(').removesuffix(')'), 'integer')


def coders_of(
  columns: Columns,
  counted: Mapping[str, Mapping[str, Any]],
  longest: Mapping[str, int],
  values: Values,
) -> tuple[Coder, ...]:
  """How each sparse column is encoded, as yet without lookup tables.

  Raises:
    InputError: a vocabulary has more values than ids can count.
  """

  def coder(column: Sparse) -> Coder:
    hotness = column.hotness or max(1, longest[column.name])
    if column.ids != 'vocabulary':
      return Coder(column, column.rows, hotness, Values())
    found = counted[column.name]
    rows = found['kept'] + found['first_row']
    if rows > MAX_ROWS:
      raise InputError(
        f'column {column.name}: {rows:,} rows; expected at most {MAX_ROWS:,}, '
        'as ids are int32; leave out rare values with a larger --min_count, or '
        "hash them (--hash_rows, or 'ids': 'hashed' in config.data.raw)"
      )
    return Coder(
      column=column,
      rows=column.modulo or rows,
      hotness=hotness,
      prepare=values,
      base=found['first_row'],
      missing=found['missing_place'],
    )

  return tuple(coder(column) for column in columns.sparse)


def with_tables(
  stage: Stage,
  work: Path,
  folder: Path,
  coders: Sequence[Coder],
  counted: Mapping[str, Mapping[str, Any]],
  budget: Budget,
) -> tuple[tuple[Coder, ...], list[Group]]:
  """Builds lookup tables; the coders with them, and groups that fit memory.

  Args:
    stage: runs units.
    work: folder of the work.
    folder: of the set that has the vocabularies.
    coders: of the columns.
    counted: of the columns with a vocabulary.
    budget: what memory there is.
  """
  (work / 'tables').mkdir(exist_ok=True)
  units: list[Build] = []
  built = []
  groups: list[list[list[int]]] = []
  left = 0.0
  for index, coder in enumerate(coders):
    if coder.column.ids != 'vocabulary':
      built.append(coder)
      continue
    name = coder.column.name
    kept = counted[name]['kept']
    shares = max(1, math.ceil(kept * BUILD_BYTES / budget.worker))
    tables = [
      Build(
        vocabulary_path(folder, name),
        number,
        shares,
        counted[name]['digest'],
        work / f'tables/{name}.{number}-of-{shares}.npy',
      )
      for number in range(shares)
    ]
    units += tables
    built.append(
      dataclasses.replace(coder, tables=tuple(u.output for u in tables))
    )
    for number in range(shares):
      size = kept / shares * max(TABLE_BYTES.values())
      if not groups or size > left:
        groups.append([[] for _ in coders])
        left = budget.tables
      groups[-1][index].append(number)
      left -= size
  mend(units)
  stage('index', build, units)
  return tuple(built), [
    tuple(tuple(numbers) for numbers in group)
    for group in groups or [[[] for _ in coders]]
  ]
