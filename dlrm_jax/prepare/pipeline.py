"""Raw logs of any format -> a prepared set, in bounded memory, resumable.

    files -> pieces -> spool -> runs -> vocabularies -> encoded parts, dealt
    to shards -> shards

Every arrow is a stage of units (`units.py`), which processes or a cluster
run. The result is a function of the files and the options alone.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax.data.manifest import FORMAT
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.errors import InputError
from dlrm_jax.files import remove_unfinished
from dlrm_jax.prepare import findings, units
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.budget import Budget, budget, check_disk, used
from dlrm_jax.prepare.fitting import fit_of
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece, Reader
from dlrm_jax.prepare.splits import bounds, parse_splits
from dlrm_jax.prepare.stages import encode, number
from dlrm_jax.prepare.stages.deal import SHUFFLE
from dlrm_jax.prepare.stages.mix import Group
from dlrm_jax.prepare.stages.multi_hot import with_bags
from dlrm_jax.prepare.stages.number import Numbering
from dlrm_jax.prepare.stages.parse import (
  Parse,
  met,
  parse,
  parts_of,
  restore,
  slices_of,
)
from dlrm_jax.prepare.units import Stage
from dlrm_jax.prepare.work import LAYOUT, unfinished
from dlrm_jax.vocabulary.coder import Coder, closed_of
from dlrm_jax.vocabulary.hashing import HASH
from dlrm_jax.vocabulary.policy import STOP


@dataclasses.dataclass(frozen=True)
class Options:
  """How to prepare.

  Attributes:
    splits: shares in file order; None: the files say (train, validation,
      test each from their own).
    numbering: of values with a vocabulary.
    shuffle: whether the rows of split train are shuffled.
    seed: of the shuffle.
    on_bad_row: 'stop' or 'skip'.
  """

  splits: str | None
  numbering: Numbering = Numbering()  # noqa: RUF009, frozen
  shuffle: bool = True
  seed: int = 0
  on_bad_row: str = 'stop'

  def __post_init__(self) -> None:
    if not 0 <= self.seed < 2**63:
      raise InputError(f'--seed={self.seed}: expected 0 ... 2^63 - 1')


_SLICE_BYTES = 128 << 20
"""Of the rows that a worker encodes at a time."""


class Job(NamedTuple):
  """What is to be prepared.

  Attributes:
    reader: of the format.
    inputs: files in time order by split, or of one part that is cut.
    pieces: of all files, in order.
    rows: of all files, about.
    options: how.
    said: what makes the reader again (see `rereading.reader_of`).
    known: a set whose vocabularies are used; None: they are made.
    longest: ids of the longest bag of a feature, once it is known.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.
  """

  reader: Reader
  inputs: Mapping[str, Sequence[str]]
  pieces: Sequence[tuple[str, Piece]]
  rows: int
  options: Options
  said: Mapping[str, Any]
  known: Prepared | None = None
  longest: Mapping[str, int] = {}
  out_of_range: str = STOP

  @property
  def row_bytes(self) -> int:
    """Of an encoded example, about."""
    columns = self.reader.columns
    hotness = sum(
      (2 if c.weighted else 1) * (c.hotness or self.longest.get(c.name, 8))
      for c in columns.sparse
    )
    return 4 * (1 + len(columns.dense) + hotness + columns.weight)

  @property
  def disk(self) -> int:
    """Bytes needed while the set is made: spool, encoded rows, drawn bags."""
    columns = self.reader.columns
    spool = 4 * (1 + len(columns.dense) + len(columns.sparse))
    drawn = sum(
      4 * (c.rows or c.modulo) * (c.hotness - 1)
      for c in columns.sparse
      if c.expand
    )
    # A tenth and some for what is counted and looked up.
    written = self.rows * max(self.row_bytes * 2, spool + self.row_bytes)
    return drawn + int(1.1 * written) + (16 << 20)

  def plan(self) -> dict[str, Any]:
    """All that the result depends on, as JSON can hold it."""
    # Not 'on_bad_row': what was parsed had none.
    options = dataclasses.asdict(
      dataclasses.replace(self.options, on_bad_row='')
    )
    files = {
      part: [findings.identity(name) for name in names]
      for part, names in self.inputs.items()
    }
    said = {
      'version': FORMAT,
      'layout': LAYOUT,
      'format': dict(self.said),
      'options': options,
      'hash': HASH,
      'files': files,
      'pieces': [tuple(piece) for _, piece in self.pieces],
      'vocabulary': self.known and self.known.details['ids'],
    }
    if self.out_of_range != STOP:  # Plans of before the field have none.
      said['out_of_range'] = self.out_of_range
    return json.loads(json.dumps(said))


def job_of(
  reader: Reader,
  inputs: Mapping[str, Sequence[str]],
  options: Options,
  said: Mapping[str, Any],
  known: Prepared | None = None,
  out_of_range: str = STOP,
) -> Job:
  """Looks at the files, without reading them through; see `Job`.

  Raises:
    InputError: a file or an option is wrong.
  """
  if options.splits is not None:
    parse_splits(options.splits, train=known is None)
  BadRows(options.on_bad_row)
  pieces = [
    (part, piece)
    for part, names in inputs.items()
    for name in names
    for piece in reader.pieces(name)
  ]
  rows = sum(reader.about(f) for names in inputs.values() for f in names)
  return Job(
    reader, inputs, pieces, rows, options, said, known, {}, out_of_range
  )


@contextlib.contextmanager
def workers(job: Job, share: Budget) -> Iterator[Stage]:
  """Processes; none for little input, which is done sooner than they start."""
  if job.rows < FRAME_ROWS or share.workers < 2:
    yield units.here
    return
  with units.processes(share.workers) as stage:
    yield stage


def run(
  job: Job,
  output: str,
  memory: int,
  overwrite: bool = False,
  stage: Stage | None = None,
) -> None:
  """Makes a prepared set, or goes on making it.

  Args:
    job: what to prepare.
    output: folder to make.
    memory: bytes to use, all workers together; of each worker of a `stage`.
    overwrite: replace a prepared set that is there.
    stage: runs units; None: processes of this machine.

  Raises:
    InputError: a row, an option or the output is wrong, or no room is left.
  """
  share = budget(memory, job.row_bytes, 1 if stage else None)
  with unfinished(output, job.plan(), overwrite) as work:
    if work is None:
      return
    remove_unfinished(work)
    check_disk(work, job.disk - used(work))
    with (
      units.room(work),
      contextlib.nullcontext(stage) if stage else workers(job, share) as do,
    ):
      _make(job, work, do, share)


def _make(job: Job, work: Path, stage: Stage, share: Budget) -> None:
  """All stages."""
  (work / 'spool').mkdir(exist_ok=True)
  lent = None if job.known is None else _lent(job, job.known, work)
  closed = {}
  if lent and any(coder.closed for coder in lent.coders):
    # Rows are looked up while it is still known where they come from.
    closed = closed_of(_with_tables(stage, work, lent, share)[0])
  schema = None if job.known is None else job.known.schema
  fit = fit_of(job.reader.columns, schema, closed, job.out_of_range)
  parses = [
    Parse(
      job.reader, p, job.options.on_bad_row, fit, work / f'spool/{i:06}.json'
    )
    for i, (_, p) in enumerate(job.pieces)
  ]
  units.mend(parses)
  stage('parse', parse, parses)
  found = met(parses)
  findings.check_bad(found, job.options.on_bad_row)
  job = job._replace(longest=findings.longest(found))
  check_disk(work, job.disk - used(work))
  splits = _split_rows(job, found)
  most = max(BLOCK_ROWS, _SLICE_BYTES // job.row_bytes)
  slices = slices_of(parts_of(parses, found), splits, most)
  need = functools.partial(restore, stage, parses, found)
  columns, numbering = job.reader.columns, job.options.numbering
  rows = lent
  if rows is None:
    counted = number.make(stage, work, columns, slices, numbering, share, need)
    rows = _rows(job, counted, job.longest)
  details = _details(job, found, rows.coders, rows.counted)
  coders, groups = _with_tables(stage, work, rows, share)
  coders = with_bags(stage, work, coders)
  log = encode.Log(columns, slices, coders, groups)
  shuffle = job.options.seed if job.options.shuffle else None
  scale = None if job.known is None else job.known.scale
  encode.write(stage, work, log, details, shuffle, scale, need)


class _Rows(NamedTuple):
  """Coders without lookup tables, and what was counted for vocabularies."""

  coders: tuple[Coder, ...]
  counted: Mapping[str, Mapping[str, Any]]


def _rows(
  job: Job,
  counted: Mapping[str, Mapping[str, Any]],
  longest: Mapping[str, int],
) -> _Rows:
  coders = number.coders_of(
    job.reader.columns, counted, longest, job.options.numbering.values
  )
  said = [dataclasses.replace(c, out_of_range=job.out_of_range) for c in coders]
  return _Rows(tuple(said), counted)


def _lent(job: Job, known: Prepared, work: Path) -> _Rows:
  """How values become rows in a set that is there; copies its vocabularies."""
  counted = number.copy(known, work / 'set')
  return _rows(job, counted, {c.name: c.hotness for c in known.schema.sparse})


def _with_tables(
  stage: Stage, work: Path, rows: _Rows, share: Budget
) -> tuple[tuple[Coder, ...], list[Group]]:
  return number.with_tables(
    stage, work, work / 'set', rows.coders, rows.counted, share
  )


def _split_rows(
  job: Job, found: Sequence[Mapping[str, Any]]
) -> dict[str, range]:
  """Rows of each split: the parts as they are, or all of them by shares."""
  rows = dict.fromkeys(job.inputs, 0)
  for (part, _), piece in zip(job.pieces, found, strict=True):
    rows[part] += sum(p['rows'] for p in piece['parts'])
  total = sum(rows.values())
  if not total:
    raise InputError(f'the input has no good rows{findings.skipped(found)}')
  if job.options.splits is None:
    ends = list(itertools.accumulate(rows.values()))
    starts = [0, *ends[:-1]]
    splits = dict(zip(rows, map(range, starts, ends), strict=True))
  else:
    findings.check_times(job.pieces, found)
    shares: dict[str, Fraction] = parse_splits(
      job.options.splits, train=job.known is None
    )
    splits = bounds(total, shares)
  for name, chosen in splits.items():
    if not chosen:
      raise InputError(
        f'split {name} would have no rows ({total:,} in all'
        f'{findings.skipped(found)}); give more rows, or other --splits'
      )
  return splits


def _details(
  job: Job,
  found: Sequence[Mapping[str, Any]],
  coders: Sequence[Coder],
  counted: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
  """What the set remembers of how it was made."""
  bad = findings.bad_rows(found)
  options = dataclasses.asdict(job.options)
  return {
    'kind': job.said['format'],
    'format': dict(job.said),
    'files': findings.files(job.pieces, found),
    'options': options,
    'shuffle': SHUFFLE if job.options.shuffle else None,
    'hash': HASH,
    'ids': number.ids_digest(coders, counted, job.reader.columns.dense),
    'values': findings.kinds_of(found),
    'columns': dict(counted),
    'bad_rows': dict(bad.counts),
    'skipped': list(bad.report()),
  }
