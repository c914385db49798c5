"""Lookup tables of vocabularies, and groups of them that fit in memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.data.folder import vocabulary_path
from dlrm_jax.errors import InputError
from dlrm_jax.files import replacing
from dlrm_jax.prepare.resources import Resources
from dlrm_jax.prepare.stages.encode import TableGroup
from dlrm_jax.prepare.stages.merge import VocabularyDigest
from dlrm_jax.prepare.units import Stage, discard_broken
from dlrm_jax.vocabulary.coder import Coder, share_of
from dlrm_jax.vocabulary.lookup import BUILD_BYTES, TABLE_BYTES, Lookup

_CHUNK = 1 << 22
"""Keys of a vocabulary that are read at a time."""


class BuildTable(NamedTuple):
  """A unit: builds one lookup table of a vocabulary.

  Attributes:
    vocabulary: file of the vocabulary.
    number: number of the table.
    shares: number of tables of the vocabulary.
    digest: digest of its keys, noted when it was written.
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


def build_table(unit: BuildTable) -> None:
  """Reads the vocabulary in chunks, and builds the table of its keys.

  Raises:
    InputError: the vocabulary is damaged, or another one.
  """
  seen = VocabularyDigest()
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
    raise damaged(unit.vocabulary, 'not the values that were counted')
  table = Lookup.of(np.concatenate(keys), np.concatenate(rows))
  with replacing(unit.output, synced=False) as work, work.open('wb') as file:
    np.save(file, table.array)


def _chunks(path: Path) -> Iterator[pl.DataFrame]:
  """Keys of a vocabulary in frames, of which the first may be empty."""
  start = 0
  while True:
    try:
      frame = (
        pl.scan_parquet(path, glob=False)
        .select('key')
        .slice(start, _CHUNK)
        .collect()
      )
    except (OSError, pl.exceptions.PolarsError) as error:
      raise damaged(path, str(error).splitlines()[0]) from error
    if start and not frame.height:
      return
    yield frame
    start += _CHUNK


def damaged(path: Path, why: str) -> InputError:
  """The error for a damaged vocabulary."""
  return InputError(f'{path}: damaged ({why}); prepare the set again')


def with_tables(
  stage: Stage,
  work: Path,
  folder: Path,
  coders: Sequence[Coder],
  counted: Mapping[str, Mapping[str, Any]],
  resources: Resources,
) -> tuple[tuple[Coder, ...], list[TableGroup]]:
  """Builds the lookup tables of all vocabularies.

  Args:
    stage: runs units.
    work: the work folder.
    folder: folder of the set that has the vocabularies.
    coders: coders of the columns, without tables.
    counted: totals of the columns with a vocabulary.
    resources: memory that may be used.

  Returns:
    The coders with their tables, and groups of tables that fit in memory.
  """
  (work / 'tables').mkdir(exist_ok=True)
  units: list[BuildTable] = []
  built = []
  groups: list[list[list[int]]] = []
  left = 0.0
  for index, coder in enumerate(coders):
    if coder.column.ids != 'vocabulary':
      built.append(coder)
      continue
    name = coder.column.name
    kept = counted[name]['kept']
    shares = max(1, math.ceil(kept * BUILD_BYTES / resources.worker))
    tables = [
      BuildTable(
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
        left = resources.tables
      groups[-1][index].append(number)
      left -= size
  discard_broken(units)
  stage('index', build_table, units)
  return tuple(built), [
    tuple(tuple(numbers) for numbers in group)
    for group in groups or [[[] for _ in coders]]
  ]
