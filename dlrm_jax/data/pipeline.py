"""Raw logs of any format -> a prepared set, in bounded memory, resumable.

    files -> pieces -> spool -> runs -> vocabularies -> encoded parts, dealt
    to shards -> shards

Every arrow is a stage of units (`units.py`), which processes or a cluster
run. The result is a function of the files and the options alone.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax.data import encoding, units, vocabularies
from dlrm_jax.data.bad_rows import BadRows
from dlrm_jax.data.budget import Budget, budget, check_disk, used
from dlrm_jax.data.checked import STOP
from dlrm_jax.data.coding import Coder, closed_of
from dlrm_jax.data.criteo_splits import bounds, parse_splits
from dlrm_jax.data.dealing import SHUFFLE
from dlrm_jax.data.fitting import Fit
from dlrm_jax.data.manifest import FORMAT
from dlrm_jax.data.mixing import Group
from dlrm_jax.data.multi_hot import with_bags
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.data.raw import FRAME_ROWS, Piece, Reader
from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.data.spool import (
  Parse,
  met,
  parse,
  parts_of,
  restore,
  slices_of,
)
from dlrm_jax.data.units import Stage
from dlrm_jax.data.vocabularies import Numbering
from dlrm_jax.data.vocabulary import HASH
from dlrm_jax.data.work import LAYOUT, unfinished
from dlrm_jax.errors import InputError
from dlrm_jax.files import remove_unfinished


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
  def longest_known(self) -> dict[str, int]:
    """Ids that a bag may have, by feature; no limits for a set of its own."""
    return {} if self.known is None else bags_of(self.reader, self.known)

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
      part: [_identity(name) for name in names]
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


def bags_of(reader: Reader, known: Prepared) -> dict[str, int]:
  """Ids that a bag may have in a set, by feature."""
  most = {column.name: column.hotness for column in known.schema.sparse}
  return {c.name: most[c.name] for c in reader.columns.sparse if c.bag}


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
  fit = Fit(job.reader.columns, job.longest_known, closed, job.out_of_range)
  parses = [
    Parse(
      job.reader, p, job.options.on_bad_row, fit, work / f'spool/{i:06}.json'
    )
    for i, (_, p) in enumerate(job.pieces)
  ]
  units.mend(parses)
  stage('parse', parse, parses)
  found = met(parses)
  _check_bad(job, found)
  job = job._replace(longest=_longest(found))
  check_disk(work, job.disk - used(work))
  splits = _split_rows(job, found)
  most = max(BLOCK_ROWS, _SLICE_BYTES // job.row_bytes)
  slices = slices_of(parts_of(parses, found), splits, most)
  need = functools.partial(restore, stage, parses, found)
  columns, numbering = job.reader.columns, job.options.numbering
  rows = lent
  if rows is None:
    counted = vocabularies.make(
      stage, work, columns, slices, numbering, share, need
    )
    rows = _rows(job, counted, job.longest)
  details = _details(job, found, rows.coders, rows.counted)
  coders, groups = _with_tables(stage, work, rows, share)
  coders = with_bags(stage, work, coders)
  log = encoding.Log(columns, slices, coders, groups)
  shuffle = job.options.seed if job.options.shuffle else None
  scale = None if job.known is None else job.known.scale
  encoding.write(stage, work, log, details, shuffle, scale, need)


class _Rows(NamedTuple):
  """How values become rows.

  Attributes:
    coders: of the columns, without lookup tables.
    counted: of the columns with a vocabulary.
  """

  coders: tuple[Coder, ...]
  counted: Mapping[str, Mapping[str, Any]]


def _rows(
  job: Job,
  counted: Mapping[str, Mapping[str, Any]],
  longest: Mapping[str, int],
) -> _Rows:
  coders = vocabularies.coders_of(
    job.reader.columns, counted, longest, job.options.numbering.values
  )
  said = [dataclasses.replace(c, out_of_range=job.out_of_range) for c in coders]
  return _Rows(tuple(said), counted)


def _lent(job: Job, known: Prepared, work: Path) -> _Rows:
  """How values become rows in a set that is there; copies its vocabularies."""
  counted = vocabularies.copy(known, work / 'set')
  return _rows(job, counted, {c.name: c.hotness for c in known.schema.sparse})


def _with_tables(
  stage: Stage, work: Path, rows: _Rows, share: Budget
) -> tuple[tuple[Coder, ...], list[Group]]:
  return vocabularies.with_tables(
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
    raise InputError(f'the input has no good rows{_skipped(found)}')
  if job.options.splits is None:
    ends = list(itertools.accumulate(rows.values()))
    starts = [0, *ends[:-1]]
    splits = dict(zip(rows, map(range, starts, ends), strict=True))
  else:
    _check_times(job, found)
    shares: dict[str, Fraction] = parse_splits(
      job.options.splits, train=job.known is None
    )
    splits = bounds(total, shares)
  for name, chosen in splits.items():
    if not chosen:
      raise InputError(
        f'split {name} would have no rows ({total:,} in all'
        f'{_skipped(found)}); give more rows, or other --splits'
      )
  return splits


def _bad(found: Sequence[Mapping[str, Any]]) -> BadRows:
  """The bad rows of all pieces."""
  bad = BadRows('skip')
  for piece in found:
    bad.merge(piece['bad'])
  return bad


def _skipped(found: Sequence[Mapping[str, Any]]) -> str:
  """How many rows were skipped, by kind, for the end of a message."""
  counts = _bad(found).counts.items()
  kinds = ', '.join(f'{count:,} x {kind}' for kind, count in counts)
  return f'; skipped {kinds}' if kinds else ''


def _check_bad(job: Job, found: Sequence[Mapping[str, Any]]) -> None:
  """Raises where an earlier run, told to, has skipped rows."""
  bad = _bad(found)
  if bad.counts and job.options.on_bad_row == 'stop':
    first = [*bad.lost, *itertools.chain(*bad.examples.values())][0]
    raise InputError(
      f'{first}. Correct the file, or skip bad rows with --on_bad_row=skip'
    )


def _check_times(job: Job, found: Sequence[Mapping[str, Any]]) -> None:
  """Raises where rows that are cut in the order of time are not in it."""
  last = None
  parts = [
    (piece.path, part)
    for (_, piece), its in zip(job.pieces, found, strict=True)
    for part in its['parts']
  ]
  for path, part in parts:
    if 'time' not in part:
      return
    first, end = part['time']
    if not part['sorted'] or (last is not None and first < last):
      raise InputError(
        f'{path}: rows are not in the order of their time '
        '(config.data.raw.time), within the file or after the one before, but '
        '--splits cuts them in that order; sort the log, or leave the time out '
        'to cut it in the order of its rows'
      )
    last = end


def _longest(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
  longest: dict[str, int] = {}
  for part in itertools.chain(*(piece['parts'] for piece in found)):
    for name, length in part['longest'].items():
      longest[name] = max(length, longest.get(name, 0))
  return longest


def _details(
  job: Job,
  found: Sequence[Mapping[str, Any]],
  coders: Sequence[Coder],
  counted: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
  """What the set remembers of how it was made."""
  bad = _bad(found)
  options = dataclasses.asdict(job.options)
  return {
    'kind': job.said['format'],
    'format': dict(job.said),
    'files': _files(job, found),
    'options': options,
    'shuffle': SHUFFLE if job.options.shuffle else None,
    'hash': HASH,
    'ids': vocabularies.ids_digest(coders, counted, job.reader.columns.dense),
    'values': kinds_of(found),
    'columns': dict(counted),
    'bad_rows': dict(bad.counts),
    'skipped': list(bad.report()),
  }


def _identity(name: str) -> list[Any]:
  """What tells an input from another of its name."""
  path = os.path.abspath(name) if os.path.isfile(name) else name
  changed = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
  return [path, _size(name), changed]


def _size(name: str) -> int:
  """Bytes of an input; 0 of one that is no file."""
  return os.path.getsize(name) if os.path.isfile(name) else 0


def kinds_of(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """The kind of the values of each sparse column (`value_kind`).

  Raises:
    InputError: it is not the same in all parts.
  """
  kinds: dict[str, str] = {}
  for part in itertools.chain(*(piece['parts'] for piece in found)):
    for name, dtype in part['types'].items():
      kind = vocabularies.value_kind(dtype)
      if kinds.setdefault(name, kind) != kind:
        raise InputError(
          f'column {name}: values are {kinds[name]} in one file and {kind} in '
          'another; expected one kind'
        )
  return kinds


def _files(
  job: Job, found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """The input: rows, and a digest of the digests of the pieces."""
  files: dict[tuple[str, str], dict[str, Any]] = {}
  for (part, piece), its in zip(job.pieces, found, strict=True):
    file = files.setdefault(
      (part, piece.path),
      {
        'name': Path(piece.path).name,
        'part': part,
        'bytes': _size(piece.path),
        'digest': hashlib.sha256(),
        'rows': 0,
      },
    )
    file['rows'] += sum(p['rows'] for p in its['parts'])
    file['digest'].update(its['digest'].encode())
  return [
    file | {'digest': file['digest'].hexdigest()} for file in files.values()
  ]
