"""Raw logs of any format -> a prepared set, in bounded memory, resumable.

    files -> pieces -> spool -> runs -> vocabularies -> encoded parts -> shards

Every arrow is a stage of units (`units.py`), which worker processes or a
cluster run. The result is a function of the files and the settings alone.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.errors import InputError
from dlrm_jax.files import remove_unfinished
from dlrm_jax.prepare import notes, units
from dlrm_jax.prepare.fitting import fit_of
from dlrm_jax.prepare.preparation import Preparation
from dlrm_jax.prepare.readers.reader import FRAME_ROWS
from dlrm_jax.prepare.resources import (
  Resources,
  check_disk,
  divided,
  folder_bytes,
)
from dlrm_jax.prepare.splits import parse_splits, rows_of_splits
from dlrm_jax.prepare.stages import number
from dlrm_jax.prepare.stages.deal import SHUFFLE
from dlrm_jax.prepare.stages.encode import TableGroup
from dlrm_jax.prepare.stages.multi_hot import with_bags
from dlrm_jax.prepare.stages.parse import (
  Parse,
  parse_again,
  parse_piece,
  read_notes,
  slices_of,
  spool_files,
)
from dlrm_jax.prepare.stages.tables import with_tables
from dlrm_jax.prepare.stages.write import ParsedLog, write_set
from dlrm_jax.prepare.units import Stage
from dlrm_jax.prepare.work import unfinished
from dlrm_jax.vocabulary.coder import Coder, closed_of
from dlrm_jax.vocabulary.hashing import HASH

_SLICE_BYTES = 128 << 20
"""Bytes of the encoded rows of a slice."""


@contextlib.contextmanager
def _workers(preparation: Preparation, resources: Resources) -> Iterator[Stage]:
  """Worker processes; this process for little input, which is done sooner."""
  if preparation.rows < FRAME_ROWS or resources.workers < 2:
    yield units.in_process
    return
  with units.processes(resources.workers) as stage:
    yield stage


def prepare_set(
  preparation: Preparation,
  output: str,
  memory: int,
  overwrite: bool = False,
  stage: Stage | None = None,
) -> None:
  """Writes a prepared set, or continues an unfinished one.

  Args:
    preparation: files, reader and settings.
    output: folder of the set.
    memory: bytes to use: of all workers together, or of each worker of a given
      `stage`.
    overwrite: whether to replace a prepared set.
    stage: runs units; None: processes of this machine.

  Raises:
    InputError: a row, a setting or the output is wrong, or the disk is full.
  """
  resources = divided(memory, preparation.row_bytes, 1 if stage else None)
  with unfinished(output, preparation.plan(), overwrite) as work:
    if work is None:
      return
    remove_unfinished(work)
    check_disk(work, preparation.disk - folder_bytes(work))
    workers = (
      contextlib.nullcontext(stage)
      if stage
      else _workers(preparation, resources)
    )
    with units.refusing_full_disk(work), workers as run_stage:
      _run_stages(preparation, work, run_stage, resources)


def _run_stages(
  preparation: Preparation, work: Path, stage: Stage, resources: Resources
) -> None:
  """Runs all stages."""
  (work / 'spool').mkdir(exist_ok=True)
  known = preparation.known
  lent = None if known is None else _lent(preparation, known, work)
  closed = {}
  if lent and any(coder.closed for coder in lent.coders):
    # Unknown values are found while their place in the file is known.
    coders, _ = _with_tables(stage, work, lent, resources)
    closed = closed_of(coders)
  columns, settings = preparation.reader.columns, preparation.settings
  schema = None if known is None else known.schema
  fit = fit_of(columns, schema, closed, preparation.out_of_range)
  parses = [
    Parse(
      preparation.reader,
      piece,
      settings.on_bad_row,
      fit,
      work / f'spool/{index:06}.json',
    )
    for index, (_, piece) in enumerate(preparation.pieces)
  ]
  units.discard_broken(parses)
  stage('parse', parse_piece, parses)
  pieces = read_notes(parses)
  notes.check_bad(pieces, settings.on_bad_row)
  preparation = preparation._replace(longest=notes.longest(pieces))
  check_disk(work, preparation.disk - folder_bytes(work))
  splits = _split_rows(preparation, pieces)
  most = max(BLOCK_ROWS, _SLICE_BYTES // preparation.row_bytes)
  slices = slices_of(spool_files(parses, pieces), splits, most)
  need = functools.partial(parse_again, stage, parses, pieces)
  vocabularies = lent
  if vocabularies is None:
    numbering = settings.numbering
    counted = number.make_vocabularies(
      stage, work, columns, slices, numbering, resources, need
    )
    vocabularies = _vocabularies(preparation, counted, preparation.longest)
  details = _details(preparation, pieces, vocabularies)
  coders, groups = _with_tables(stage, work, vocabularies, resources)
  coders = with_bags(stage, work, coders)
  log = ParsedLog(columns, slices, coders, groups)
  seed = settings.seed if settings.shuffle else None
  scale = None if known is None else known.scale
  write_set(stage, work, log, details, seed, scale, need)


class _Vocabularies(NamedTuple):
  """Coders without lookup tables, and the totals of counted columns."""

  coders: tuple[Coder, ...]
  counted: Mapping[str, Mapping[str, Any]]


def _vocabularies(
  preparation: Preparation,
  counted: Mapping[str, Mapping[str, Any]],
  longest: Mapping[str, int],
) -> _Vocabularies:
  coders = number.coders_without_tables(
    preparation.reader.columns,
    counted,
    longest,
    preparation.settings.numbering.values,
  )
  return _Vocabularies(
    tuple(
      dataclasses.replace(coder, out_of_range=preparation.out_of_range)
      for coder in coders
    ),
    counted,
  )


def _lent(
  preparation: Preparation, known: Prepared, work: Path
) -> _Vocabularies:
  """The vocabularies of a known set, copied to the new one."""
  counted = number.copy_vocabularies(known, work / 'set')
  longest = {c.name: c.hotness for c in known.schema.sparse}
  return _vocabularies(preparation, counted, longest)


def _with_tables(
  stage: Stage, work: Path, vocabularies: _Vocabularies, resources: Resources
) -> tuple[tuple[Coder, ...], list[TableGroup]]:
  return with_tables(
    stage,
    work,
    work / 'set',
    vocabularies.coders,
    vocabularies.counted,
    resources,
  )


def _split_rows(
  preparation: Preparation, pieces: notes.Notes
) -> dict[str, range]:
  """Rows of each split: those of its files, or a share of all rows."""
  rows = dict.fromkeys(preparation.inputs, 0)
  for (part, _), piece in zip(preparation.pieces, pieces, strict=True):
    rows[part] += sum(p['rows'] for p in piece['parts'])
  total = sum(rows.values())
  if not total:
    first, *others = itertools.chain(*preparation.inputs.values())
    more = f' and {len(others):,} other files' if others else ''
    raise InputError(
      f'{first}{more}: the input has no good rows{notes.skipped(pieces)}; '
      'expected one at least'
    )
  settings = preparation.settings
  if settings.splits is None:
    ends = list(itertools.accumulate(rows.values()))
    starts = [0, *ends[:-1]]
    splits = dict(zip(rows, map(range, starts, ends), strict=True))
  else:
    notes.check_times(preparation.pieces, pieces)
    shares: dict[str, Fraction] = parse_splits(
      settings.splits, train=preparation.known is None
    )
    splits = rows_of_splits(total, shares)
  for name, chosen in splits.items():
    if not chosen:
      raise InputError(
        f'split {name} would have no rows ({total:,} in all'
        f'{notes.skipped(pieces)}); give more rows, or other --splits'
      )
  return splits


def _details(
  preparation: Preparation, pieces: notes.Notes, vocabularies: _Vocabularies
) -> dict[str, Any]:
  """The set's account of its making (`Prepared.details`)."""
  bad = notes.bad_rows(pieces)
  coders, counted = vocabularies
  columns = preparation.reader.columns
  return {
    'kind': preparation.format['format'],
    'format': dict(preparation.format),
    'files': notes.files(preparation.pieces, pieces),
    'options': dataclasses.asdict(preparation.settings),
    'shuffle': SHUFFLE if preparation.settings.shuffle else None,
    'hash': HASH,
    'ids': number.ids_digest(coders, counted, columns.dense),
    'values': notes.column_kinds(pieces),
    'columns': dict(counted),
    'bad_rows': dict(bad.counts),
    'skipped': list(bad.report()),
  }
