"""Stages 2 and 3 together: slices of the spool -> vocabularies -> coders."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.data.folder import VOCABULARIES, vocabulary_path
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.errors import InputError
from dlrm_jax.files import read_json, replacing
from dlrm_jax.prepare.resources import Resources
from dlrm_jax.prepare.stages.count import (
  Count,
  count_values,
  grouped,
  mark_of,
)
from dlrm_jax.prepare.stages.merge import Merge, merge_runs
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.prepare.stages.tables import damaged
from dlrm_jax.prepare.units import Stage, discard_broken
from dlrm_jax.vocabulary.coder import Coder, Values
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse


@dataclasses.dataclass(frozen=True)
class Numbering:
  """The numbering of a column's values by a vocabulary.

  Attributes:
    order: order of the rows: 'frequency' or 'appearance' (see `Merge`).
    base: row of the first value; unknown values get the row before it, if
      there is one.
    min_count: number of rows in which a known value occurs at least.
    everything: whether all rows are counted, or only those of split train.
    values: change of values before they are counted.
  """

  order: str = 'frequency'
  base: int = 1
  min_count: int = 1
  everything: bool = False
  values: Values = Values()  # noqa: RUF009, a tuple


def numbering_of(details: Mapping[str, Any]) -> Numbering:
  """The numbering of a set, from its details."""
  fields = dict(details['options']['numbering'])
  return Numbering(**fields | {'values': Values(*fields['values'])})


MAX_ROWS = 2**31 - 1
"""Maximum number of rows of a table, because ids are int32."""


def make_vocabularies(
  stage: Stage,
  work: Path,
  columns: Columns,
  slices: Sequence[Slice],
  numbering: Numbering,
  resources: Resources,
  need: Callable[[Sequence[Slice]], None],
) -> dict[str, dict[str, Any]]:
  """Counts values, and writes vocabularies to the set.

  Args:
    stage: runs units.
    work: the work folder.
    columns: columns of the spool.
    slices: slices of the spool.
    numbering: numbering of the values.
    resources: memory that may be used.
    need: parses slices of the spool again that are missing.

  Returns:
    Totals of each column (see `merge_runs`), and its first row.
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
      memory=resources.worker // 2,
      vocabulary=vocabulary_path(work / 'set', column.name),
      output=work / f'merged/{column.name}.json',
    )
    for column in wanted
  ]
  if discard_broken(merges):
    need([part for unit in discard_broken(counts) for part in unit.slices])
    stage('count', count_values, counts)
    stage('merge', merge_runs, merges)
  shutil.rmtree(work / 'counts')
  return {
    unit.column: read_json(unit.output)['counted']
    | {'first_row': numbering.base}
    for unit in merges
  }


def copy_vocabularies(
  known: Prepared, folder: Path
) -> dict[str, dict[str, Any]]:
  """Copies the vocabularies of a set; returns their totals, by column."""
  counted = known.details['columns']
  (folder / VOCABULARIES).mkdir(exist_ok=True)
  for name in counted:
    source = vocabulary_path(Path(known.directory), name)
    if not source.exists():
      raise damaged(source, 'the file is missing')
    with replacing(vocabulary_path(folder, name), synced=False) as work:
      shutil.copyfile(source, work)
  return dict(counted)


def ids_digest(
  coders: Sequence[Coder],
  counted: Mapping[str, Any],
  dense: Sequence[Dense],
) -> str:
  """Digest that is equal for sets whose ids and dense features mean the same.

  The kinds of values (`value_kind`) are not in it; sets have them as a field
  of their own, because older sets do not have it.

  Args:
    coders: coders of the sparse columns.
    counted: totals of the columns with a vocabulary.
    dense: the dense columns.
  """
  meaning: list[tuple[Any, ...]] = [
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
  meaning.append(tuple(column.transform for column in dense))
  return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16]


_KINDS = {'String': 'string', 'UInt32': 'hex'}


def value_kind(dtype: str) -> str:
  """The kind of values of a type, a word of `raw_schema.VALUES`.

  A text has another key, and so another row, in each kind.

  >>> value_kind('List(Int64)')
  'integer'
  """
  return _KINDS.get(dtype.removeprefix('List(').removesuffix(')'), 'integer')


def coders_without_tables(
  columns: Columns,
  counted: Mapping[str, Mapping[str, Any]],
  longest: Mapping[str, int],
  values: Values,
) -> tuple[Coder, ...]:
  """Coders of the sparse columns, without lookup tables.

  Args:
    columns: columns of the log.
    counted: totals of the columns with a vocabulary.
    longest: number of ids in the longest bag of a column.
    values: change of values before they are looked up.

  Raises:
    InputError: a vocabulary has more values than int32 can number.
  """

  def coder(column: Sparse) -> Coder:
    hotness = column.hotness or max(1, longest[column.name])
    if column.ids != 'vocabulary':
      return Coder(column, column.rows, hotness, Values())
    totals = counted[column.name]
    rows = totals['kept'] + totals['first_row']
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
      base=totals['first_row'],
      missing=totals['missing_place'],
    )

  return tuple(coder(column) for column in columns.sparse)
