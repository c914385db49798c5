"""Criteo click logs (Kaggle train.txt, 1TB day_*.gz) -> a prepared set.

Three passes, each in bounded memory but for the vocabularies: the text is
parsed once, to columnar files in the folder being made (the spool; about
two thirds of the text's size); values are counted over the training rows;
the spool is mapped to blocks.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from tqdm import tqdm

from dlrm_jax.data.bad_rows import BadRows
from dlrm_jax.data.criteo_encode import (
  HASH,
  TRANSFORM,
  digest,
  encode,
  load_encoders,
  save_encoders,
  schema_of,
)
from dlrm_jax.data.criteo_files import check_readable
from dlrm_jax.data.criteo_read import RawFile, pooled, read_frames
from dlrm_jax.data.criteo_rows import SPARSE
from dlrm_jax.data.criteo_splits import DEFAULT, bounds, parse_splits
from dlrm_jax.data.folder import creating
from dlrm_jax.data.prepared import Prepared, Split, open_prepared, write
from dlrm_jax.data.rebatch import rebatch
from dlrm_jax.data.schema import Block
from dlrm_jax.data.vocabulary import Encoder, Hashing, Vocabulary
from dlrm_jax.errors import InputError

MAX_ROWS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Options:
  """How to prepare.

  Attributes:
    min_count: values that fewer training rows have share row 0.
    hash_rows: rows a column to hash into; None: vocabularies.
    splits: shares in file order; None: the files say (train, validation,
      test each from their own).
    on_bad_row: 'stop' or 'skip'.
  """

  min_count: int = 1
  hash_rows: int | None = None
  splits: str | None = DEFAULT
  on_bad_row: str = 'stop'

  def __post_init__(self) -> None:
    if self.min_count < 1:
      raise InputError(f'--min_count={self.min_count}: expected 1 or more')
    if self.hash_rows is None:
      return
    if not 1 <= self.hash_rows <= MAX_ROWS:
      raise InputError(
        f'--hash_rows={self.hash_rows}: expected 1 ... {MAX_ROWS}'
      )
    if self.min_count != 1:
      raise InputError(
        '--min_count and --hash_rows exclude each other: hashing counts nothing'
      )

  @property
  def described(self) -> str:
    """The rows of categories, in words."""
    if self.hash_rows:
      return f'hashed into {self.hash_rows:,} rows a column'
    if self.min_count == 1:
      return 'a row for every id of the training rows, one for all others'
    return (
      f'a row for every id in {self.min_count:,} or more training rows, '
      'one for all others'
    )


class _Spool(NamedTuple):
  """Parsed rows: columnar files, and how many rows each has."""

  paths: list[Path]
  rows: list[int]

  def frames(self, rows: range) -> Iterator[pl.DataFrame]:
    """These rows, a file at a time."""
    first = 0
    for path, count in zip(self.paths, self.rows, strict=True):
      start, stop = max(rows.start - first, 0), min(rows.stop - first, count)
      first += count
      if start < stop:
        frame = pl.read_ipc(path)
        yield frame.slice(start, stop - start)


def _spool(
  folder: Path, inputs: Mapping[str, Sequence[str]], bad: BadRows
) -> tuple[_Spool, list[dict[str, Any]], dict[str, int]]:
  """Pass 1: the spool, what the files are, rows a part of the inputs."""
  paths: list[Path] = []
  rows: list[int] = []
  files: list[dict[str, Any]] = []
  parts: dict[str, int] = {}
  size = sum(check_readable(f) for names in inputs.values() for f in names)
  with _bar('parse', size, 'B') as bar:
    for part, names in inputs.items():
      for file in (RawFile(name, bar.update) for name in names):
        start = len(rows)
        for frame in read_frames(file, bad):
          paths.append(folder / f'{len(paths):06}.arrow')
          rows.append(frame.height)
          frame.write_ipc(paths[-1])
        files.append(_described(file, part, sum(rows[start:])))
      parts[part] = sum(rows) - sum(parts.values())
  return _Spool(paths, rows), files, parts


def _described(file: RawFile, part: str, rows: int) -> dict[str, Any]:
  return {
    'name': Path(file.path).name,
    'part': part,
    'bytes': file.size,
    'sha256': file.sha256,
    'rows': rows,
  }


def _encoders(
  spool: _Spool, train: range, options: Options
) -> tuple[dict[str, Encoder], dict[str, dict[str, int]]]:
  """Pass 2: encoders, and what was counted, for each column."""
  if options.hash_rows:
    hashing = Hashing(options.hash_rows)
    return dict.fromkeys(SPARSE, hashing), {
      name: {'rows': hashing.rows} for name in SPARSE
    }
  encoders: dict[str, Encoder] = {}
  counted: dict[str, dict[str, int]] = {}
  frame = pl.scan_ipc(spool.paths).slice(train.start, len(train))
  for name in _bar('count', len(SPARSE), 'column', SPARSE):
    keys = frame.select(key=pl.col(name))
    counts = keys.group_by('key').agg(count=pl.len())
    counts = counts.collect(engine='streaming')
    encoders[name] = kept = Vocabulary.of(counts, options.min_count)
    counted[name] = {
      'rows': kept.rows,
      'values': counts.height,
      'unknown': len(train) - int(kept.counts['count'].sum()),
      'missing': int(counts.filter(pl.col('key').is_null())['count'].sum()),
    }
  return encoders, counted


def _blocks(
  spool: _Spool, rows: range, encoders: Mapping[str, Encoder], bar: tqdm
) -> Iterator[Block]:
  """Pass 3: the rows of a split."""
  frames = spool.frames(rows)
  for block in pooled(lambda frame: encode(frame, encoders), frames):
    bar.update(len(block.labels))
    yield block


def _bar(
  what: str, total: int, unit: str, items: Iterable[Any] | None = None
) -> tqdm:
  """A progress bar on a terminal, nothing elsewhere."""
  return tqdm(
    items, desc=what, total=total, unit=unit, unit_scale=True, disable=None
  )


def _split_rows(
  parts: Mapping[str, int], shares: Mapping[str, Fraction] | None
) -> dict[str, range]:
  """Rows of each split: the parts as they are, or all of them by shares."""
  total = sum(parts.values())
  if not total:
    raise InputError('the input has no good rows')
  if shares is None:
    ends = list(itertools.accumulate(parts.values()))
    starts = [0, *ends[:-1]]
    rows = map(range, starts, ends)
    splits = dict(zip(parts, rows, strict=True))
  else:
    splits = bounds(total, shares)
  for name, rows in splits.items():
    if not rows:
      raise InputError(
        f'split {name} would have no rows ({total:,} in all); '
        'give more rows, or other --splits'
      )
  return splits


def _details(
  options: Options,
  files: list[dict[str, Any]],
  columns: dict[str, dict[str, int]],
  ids: str,
  bad: BadRows,
) -> dict[str, Any]:
  return {
    'kind': 'criteo',
    'files': files,
    'splits': options.splits,
    'dense': TRANSFORM,
    'min_count': None if options.hash_rows else options.min_count,
    'hash_rows': options.hash_rows,
    'hash': HASH if options.hash_rows else None,
    'ids': ids,
    'columns': columns,
    'bad_rows': dict(bad.counts),
    'skipped': list(bad.report()),
  }


def prepare(
  inputs: Mapping[str, Sequence[str]],
  output: str,
  options: Options = Options(),
  overwrite: bool = False,
) -> Prepared:
  """Makes a prepared set of raw logs.

  Args:
    inputs: files in time order by split when `options.splits` is None; else
      those of one part, which is cut by shares.
    output: folder to make.
    options: vocabulary, splits, bad rows.
    overwrite: replace a prepared set that is there.

  Raises:
    InputError: a file, a row, an option or the output is wrong.
  """
  shares = None if options.splits is None else parse_splits(options.splits)
  bad = BadRows(options.on_bad_row)
  for name in itertools.chain(*inputs.values()):
    check_readable(name)
  with creating(output, overwrite) as folder:
    scratch = folder / 'spool'
    scratch.mkdir()
    spool, files, parts = _spool(scratch, inputs, bad)
    splits = _split_rows(parts, shares)
    encoders, counted = _encoders(spool, splits['train'], options)
    details = _details(options, files, counted, digest(encoders), bad)
    with _bar('write', sum(parts.values()), 'row') as bar:
      blocks = {
        name: Split(len(rows), lambda r=rows: _blocks(spool, r, encoders, bar))
        for name, rows in splits.items()
      }
      write(folder, schema_of(encoders), blocks, details)
    save_encoders(folder, encoders)
    shutil.rmtree(scratch)
  return open_prepared(output)


def read_raw(
  prepared: Prepared,
  files: Sequence[str],
  on_bad_row: str = 'stop',
  bad: BadRows | None = None,
) -> Iterator[Block]:
  """Raw logs in the vocabularies of a prepared set, nothing written.

  Values that its training rows do not have go to row 0, "unknown".

  Args:
    prepared: a Criteo set.
    files: raw logs, plain or gzip.
    on_bad_row: 'stop' or 'skip'.
    bad: where to count bad rows, for who wants to report them.

  Yields:
    Blocks of `BLOCK_ROWS` examples, but for the last.

  Raises:
    InputError: the set is of another kind, or a file or a row is wrong.
  """
  for name in files:
    check_readable(name)
  bad = bad or BadRows(on_bad_row)
  encoders = load_encoders(prepared)
  frames = (f for name in files for f in read_frames(RawFile(name), bad))
  return rebatch(encode(frame, encoders) for frame in frames)
