"""Files of rows, CSV or Parquet, that are written as rows come."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import polars as pl

from dlrm_jax import files
from dlrm_jax.errors import InputError


def check_name(path: Path, option: str) -> None:
  """Raises an error if a file of this name cannot be written.

  Args:
    path: the file.
    option: the command-line option that names it, for the message.

  Raises:
    InputError: its name ends in neither .csv nor .parquet, or it cannot be
      written where it is.
  """
  if path.suffix not in ('.csv', '.parquet'):
    raise InputError(f'{option}: expected a name that ends in .csv or .parquet')
  files.check_writable(path, option)


class Writer(Protocol):
  """Takes frames in order."""

  def add(self, frame: pl.DataFrame) -> None:
    """Writes the next rows."""
    ...


class _Csv:
  """Writes CSV to a file as rows come."""

  def __init__(self, path: Path) -> None:
    self._file = path.open('wb')
    self._first = True

  def add(self, frame: pl.DataFrame) -> None:
    """Writes the next rows.

    Raises:
      InputError: they have a column of a type that CSV has no words for.
    """
    for name, kind in frame.schema.items():
      if kind.is_nested() or kind in (pl.Binary, pl.Duration, pl.Object):
        raise InputError(
          f'column {name!r} is {kind}, which CSV cannot hold; choose an output '
          'that ends in .parquet, or leave the column out'
        )
    frame.write_csv(self._file, include_header=self._first)
    self._first = False

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class _Parquet:
  """Writes Parquet at the end, of parts that are files of Arrow."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    self._parts: list[Path] = []
    self._types: pl.Schema | None = None

  def add(self, frame: pl.DataFrame) -> None:
    """Writes the next rows.

    Raises:
      InputError: a column has another type than in the rows before.
    """
    self._types = self._types or frame.schema
    for name, kind in frame.schema.items():
      if kind != self._types[name]:
        raise InputError(
          f'column {name!r} is {self._types[name]} in the first rows and '
          f'{kind} in later ones; make the files alike, or choose an output '
          'that ends in .csv'
        )
    self._parts.append(self._folder / f'{len(self._parts)}.arrow')
    frame.write_ipc(self._parts[-1])

  def save(self, path: Path) -> None:
    """Writes all rows as one file."""
    pl.scan_ipc(self._parts, glob=False).sink_parquet(path)


@contextlib.contextmanager
def writer_of(path: Path) -> Iterator[Writer]:
  """A writer of a file that gets its name when the context ends well.

  Raises:
    InputError: it cannot be written.
  """
  with files.beside(path) as folder:
    work = folder / f'whole{path.suffix}'
    if path.suffix == '.csv':
      with contextlib.closing(_Csv(work)) as csv:
        yield csv
    else:
      parquet = _Parquet(folder)
      yield parquet
      parquet.save(work)
    files.publish(work, path.absolute())
