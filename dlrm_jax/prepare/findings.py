"""What was found in the pieces of a log, once all are parsed (`spool.met`)."""

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.reader import Piece
from dlrm_jax.prepare.stages.number import value_kind

Pieces = Sequence[tuple[str, Piece]]
"""The part of the input that a piece is of, and the piece."""

Found = Sequence[Mapping[str, Any]]
"""What `spool.parse` has written of each piece, in order."""


def bad_rows(found: Found) -> BadRows:
  """The bad rows of all pieces."""
  bad = BadRows('skip')
  for piece in found:
    bad.merge(piece['bad'])
  return bad


def skipped(found: Found) -> str:
  """How many rows were skipped, by kind, for the end of a message."""
  counts = bad_rows(found).counts.items()
  kinds = ', '.join(f'{count:,} x {kind}' for kind, count in counts)
  return f'; skipped {kinds}' if kinds else ''


def check_bad(found: Found, on_bad_row: str) -> None:
  """Raises where an earlier run, told to, has skipped rows."""
  bad = bad_rows(found)
  if bad.counts and on_bad_row == 'stop':
    first = [*bad.lost, *itertools.chain(*bad.examples.values())][0]
    raise InputError(
      f'{first}. Correct the file, or skip bad rows with --on_bad_row=skip'
    )


def check_times(pieces: Pieces, found: Found) -> None:
  """Raises where rows that are cut in the order of time are not in it."""
  last = None
  parts = [
    (piece.path, part)
    for (_, piece), its in zip(pieces, found, strict=True)
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


def longest(found: Found) -> dict[str, int]:
  """Ids of the longest bag of each feature that has bags."""
  most: dict[str, int] = {}
  for part in itertools.chain(*(piece['parts'] for piece in found)):
    for name, length in part['longest'].items():
      most[name] = max(length, most.get(name, 0))
  return most


def identity(name: str) -> list[Any]:
  """What tells an input from another of its name."""
  path = os.path.abspath(name) if os.path.isfile(name) else name
  changed = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
  return [path, size_of(name), changed]


def size_of(name: str) -> int:
  """Bytes of an input; 0 of one that is no file."""
  return os.path.getsize(name) if os.path.isfile(name) else 0


def kinds_of(found: Found) -> dict[str, str]:
  """The kind of the values of each sparse column (`value_kind`).

  Raises:
    InputError: it is not the same in all parts.
  """
  kinds: dict[str, str] = {}
  for part in itertools.chain(*(piece['parts'] for piece in found)):
    for name, dtype in part['types'].items():
      kind = value_kind(dtype)
      if kinds.setdefault(name, kind) != kind:
        raise InputError(
          f'column {name}: values are {kinds[name]} in one file and {kind} in '
          'another; expected one kind'
        )
  return kinds


def files(pieces: Pieces, found: Found) -> list[dict[str, Any]]:
  """The input: rows, and a digest of the digests of the pieces."""
  said: dict[tuple[str, str], dict[str, Any]] = {}
  for (part, piece), its in zip(pieces, found, strict=True):
    file = said.setdefault(
      (part, piece.path),
      {
        'name': Path(piece.path).name,
        'part': part,
        'bytes': size_of(piece.path),
        'digest': hashlib.sha256(),
        'rows': 0,
      },
    )
    file['rows'] += sum(p['rows'] for p in its['parts'])
    file['digest'].update(its['digest'].encode())
  return [
    file | {'digest': file['digest'].hexdigest()} for file in said.values()
  ]
