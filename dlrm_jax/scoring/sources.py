"""What is scored: files of raw rows, or a split of a prepared set."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.build.trained import check_fits
from dlrm_jax.data.checked import Checked, Checker
from dlrm_jax.data.folder import is_set
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.unknown import UnknownIds, unknown_rows
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.logs import (
  Marked,
  ScorableRows,
  paths_of,
  reader_for,
  rows_of_file,
)
from dlrm_jax.scoring.model import Model
from dlrm_jax.scoring.stream import STANDARD_INPUT, STDIN, rows_of_stream


@dataclasses.dataclass(frozen=True)
class RowSource:
  """Rows to score.

  Attributes:
    names: the files, or the split of a set.
    about: number of rows, exact or estimated; 0: it is not known.
    rows: opens them, in order.
    bad: the bad rows, once the rows were read.
    unknown: counts their unknown ids.
  """

  names: Sequence[str]
  about: int
  rows: Callable[[], Iterator[ScorableRows]]
  bad: Marked
  unknown: UnknownIds

  def notes(self) -> Iterator[str]:
    """Lines about what was met, once the rows were read."""
    yield from self.bad.report()
    if shares := self.unknown.shares():
      yield from shares.lines()


def source_of(
  model: Model,
  paths: Sequence[str],
  split: str | None = None,
  kept: tuple[str, ...] = (),
  on_bad_row: str = 'stop',
  stream: BinaryIO | None = None,
) -> RowSource:
  """Opens what is to be scored.

  Args:
    model: the model.
    paths: a prepared set; or raw files, folders of them, or globs.
    split: split of a prepared set; None: test.
    kept: columns of raw files to keep.
    on_bad_row: 'stop' or 'skip', for raw files.
    stream: what the path `STDIN` means; None: a file of that name.

  Raises:
    InputError: something is not there, or does not fit the model.
  """
  bad = Marked(on_bad_row)
  if is_set(paths):
    if kept:
      raise InputError(
        f'--keep={",".join(kept)}: {paths[0]} is a prepared set, which has no '
        'raw columns; score the raw files'
      )
    return _set(model, paths[0], split, bad)
  if split:
    raise InputError(
      f'split {split!r}: {paths[0]} is a raw file and has no splits; leave it '
      'out'
    )
  intake = model.intake
  unknown = UnknownIds(model.card.schema, intake.unknown)

  def counted(rows: Iterator[ScorableRows]) -> Iterator[ScorableRows]:
    for some in rows:
      if some.inputs is not None:
        unknown.count(some.inputs.ids)
      yield some

  if stream is not None and STDIN in paths:
    if len(paths) > 1:
      raise InputError(
        f'--data={" ".join(paths)}: {STDIN} is standard input, which is read '
        'alone'
      )
    return RowSource(
      [STANDARD_INPUT],
      0,
      lambda: counted(rows_of_stream(intake, stream, kept, bad)),
      bad,
      unknown,
    )
  names = paths_of(intake, paths)
  readers = [reader_for(intake, name, kept) for name in names]

  def rows() -> Iterator[ScorableRows]:
    for name, reader in zip(names, readers, strict=True):
      yield from counted(rows_of_file(intake, reader, name, bad))

  about = sum(r.about(name) for name, r in zip(names, readers, strict=True))
  return RowSource(names, about, rows, bad, unknown)


def _set(model: Model, path: str, split: str | None, bad: Marked) -> RowSource:
  prepared = open_prepared(path)
  if not split and 'test' not in prepared.splits:
    raise InputError(
      f'{path} has no split test; name another one: it has '
      f'{", ".join(prepared.splits)}'
    )
  check_fits(prepared, model.card.data)
  name = split or 'test'
  source = prepared.source(name)
  unknown = UnknownIds(prepared.schema, unknown_rows(prepared))
  checker = Checker(
    prepared.schema, f'{path}, split {name}', model.card.out_of_range
  )

  def rows() -> Iterator[ScorableRows]:
    checked = Checked(source, checker)
    for number in range(len(checked)):
      block = checked[number]
      ids, _ = checker.mend(block.ids[None])
      unknown.count(ids[0])
      inputs = Inputs(block.dense, ids[0], block.id_weights)
      yield ScorableRows(inputs, np.ones(len(inputs.ids), bool), None)

  names = [f'{path}, split {name}']
  return RowSource(names, source.examples, rows, bad, unknown)
