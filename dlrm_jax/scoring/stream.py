"""Standard input as a log: text of any length, in files of bounded size."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.readers.csv_lines import whole_rows
from dlrm_jax.prepare.readers.csv_reader import CsvReader
from dlrm_jax.prepare.readers.reader import Reader
from dlrm_jax.scoring.intake import Intake
from dlrm_jax.scoring.logs import (
  Marked,
  ScorableRows,
  reader_for,
  rows_of_file,
)

STDIN = '-'
STANDARD_INPUT = 'standard input'
_BYTES = 64 << 20  # of a file
_BLOCK = 4 << 20


def rows_of_stream(
  intake: Intake, stream: BinaryIO, kept: tuple[str, ...], bad: Marked
) -> Iterator[ScorableRows]:
  """All rows of a stream of text, in order.

  Raises:
    InputError: it is empty, no text, or a row is bad.
  """
  reader: Reader | None = None
  with tempfile.TemporaryDirectory() as folder:
    path = str(Path(folder) / 'text')
    bad.names = {path: STANDARD_INPUT}
    try:
      texts = _texts(stream)
      if (intake.format or {}).get('multiline'):
        texts = whole_rows(texts, STANDARD_INPUT)
      for text in texts:
        Path(path).write_bytes(text)
        if reader is None:
          reader = reader_for(intake, path, kept)
        yield from rows_of_file(intake, reader, path, bad)
        if isinstance(reader, CsvReader) and not reader.header:
          names = reader.names_in(path)  # later files lack the first line
          reader = dataclasses.replace(reader, header=names)
        bad.before += text.count(b'\n')
    except InputError as error:
      raise InputError(str(error).replace(path, STANDARD_INPUT)) from None
  if reader is None:
    raise InputError(f'{STANDARD_INPUT}: empty; expected rows of text')


def _texts(stream: BinaryIO) -> Iterator[bytes]:
  """Texts of whole lines, of about `_BYTES` each."""
  held, size = [], 0
  while block := stream.read(_BLOCK):
    held.append(block)
    size += len(block)
    if size >= _BYTES and (end := block.rfind(b'\n') + 1):
      held[-1] = block[:end]
      yield b''.join(held)
      held, size = [block[end:]], len(block) - end
  if size:
    yield b''.join(held)
