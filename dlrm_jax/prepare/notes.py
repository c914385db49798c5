"""The notes on the pieces of a log, once all are parsed (`stages.parse`)."""

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
"""Pieces in order, each with its key of `Preparation.inputs`."""

Notes = Sequence[Mapping[str, Any]]
"""The notes that `parse_piece` has written on each piece, in order."""


def bad_rows(notes: Notes) -> BadRows:
  """The bad rows of all pieces."""
  bad = BadRows('skip')
  for piece in notes:
    bad.merge(piece['bad'])
  return bad


def skipped(notes: Notes) -> str:
  """Numbers of skipped rows by kind, for the end of a message."""
  counts = bad_rows(notes).counts.items()
  kinds = ', '.join(f'{count:,} x {kind}' for kind, count in counts)
  return f'; skipped {kinds}' if kinds else ''


def check_bad(notes: Notes, on_bad_row: str) -> None:
  """Raises `InputError` if rows were skipped, but must not be.

  Pieces may have been parsed by an earlier run that skipped bad rows.
  """
  bad = bad_rows(notes)
  if bad.counts and on_bad_row == 'stop':
    first = [*bad.lost, *itertools.chain(*bad.examples.values())][0]
    raise InputError(
      f'{first}. Correct the file, or skip bad rows with --on_bad_row=skip'
    )


def check_times(pieces: Pieces, notes: Notes) -> None:
  """Raises `InputError` if rows with times are not in the order of time."""
  last = None
  parts = [
    (piece.path, part)
    for (_, piece), noted in zip(pieces, notes, strict=True)
    for part in noted['parts']
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


def longest(notes: Notes) -> dict[str, int]:
  """Number of ids in the longest bag of each feature that has bags."""
  most: dict[str, int] = {}
  for part in itertools.chain(*(piece['parts'] for piece in notes)):
    for name, length in part['longest'].items():
      most[name] = max(length, most.get(name, 0))
  return most


def file_identity(name: str) -> list[Any]:
  """Path, bytes and time of change of an input, to notice a changed file."""
  path = os.path.abspath(name) if os.path.isfile(name) else name
  changed = os.stat(path).st_mtime_ns if os.path.isfile(path) else 0
  return [path, input_bytes(name), changed]


def input_bytes(name: str) -> int:
  """Bytes of an input; 0 if it is no file."""
  return os.path.getsize(name) if os.path.isfile(name) else 0


def column_kinds(notes: Notes) -> dict[str, str]:
  """The kind of the values of each sparse column (see `value_kind`).

  Raises:
    InputError: files differ in the kind of a column.
  """
  kinds: dict[str, str] = {}
  for part in itertools.chain(*(piece['parts'] for piece in notes)):
    for name, dtype in part['types'].items():
      kind = value_kind(dtype)
      if kinds.setdefault(name, kind) != kind:
        raise InputError(
          f'column {name}: values are {kinds[name]} in one file and {kind} in '
          'another; expected one kind'
        )
  return kinds


def files(pieces: Pieces, notes: Notes) -> list[dict[str, Any]]:
  """Name, bytes, rows and digest of each input file."""
  by_file: dict[tuple[str, str], dict[str, Any]] = {}
  for (part, piece), noted in zip(pieces, notes, strict=True):
    file = by_file.setdefault(
      (part, piece.path),
      {
        'name': Path(piece.path).name,
        'part': part,
        'bytes': input_bytes(piece.path),
        'digest': hashlib.sha256(),
        'rows': 0,
      },
    )
    file['rows'] += sum(p['rows'] for p in noted['parts'])
    file['digest'].update(noted['digest'].encode())
  return [
    file | {'digest': file['digest'].hexdigest()} for file in by_file.values()
  ]
