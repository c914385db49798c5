"""The intake of a model: raw values of its columns -> inputs of its network.

The vocabularies, hashes and transforms are those of the training.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.batch import Inputs
from dlrm_jax.data.unknown import UnknownRow
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.fitting import Fit, fitting
from dlrm_jax.prepare.readers.reader import BAD, NUMBER, Piece, Reader
from dlrm_jax.prepare.stages.encode import encode_frame
from dlrm_jax.prepare.values.raw_schema import (
  DenseSource,
  RawSchema,
  SparseSource,
)
from dlrm_jax.prepare.values.rules import KEPT
from dlrm_jax.prepare.values.typed import Words
from dlrm_jax.scoring.frames import IN_MEMORY, FrameReader
from dlrm_jax.vocabulary.coder import Coder, Values, closed_of
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse
from dlrm_jax.vocabulary.policy import STOP


@contextlib.contextmanager
def reading_vocabularies() -> Iterator[None]:
  """Context in which files of vocabularies are read.

  Raises:
    InputError: one is gone.
  """
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(
      f'{error.filename}: gone since the model was loaded; load the model again'
    ) from None


@dataclasses.dataclass(frozen=True)
class EncodedRows:
  """Consecutive rows of a log, encoded.

  Attributes:
    inputs: inputs of the good rows.
    numbers: number of each row in its piece, from 0, i64[n].
    good: which of the n rows are good, bool[n].
    kept: the n rows of the columns to keep; None: there are none.
  """

  inputs: Inputs
  numbers: np.ndarray
  good: np.ndarray
  kept: pl.DataFrame | None


@dataclasses.dataclass(frozen=True)
class Intake:
  """How raw values become inputs.

  Attributes:
    schema: features and their columns, without labels.
    coders: the way the values of each sparse column become rows.
    out_of_range: what happens to a value without a row: 'stop' or 'unknown'.
    format: the description of the raw files that the model was trained on;
      None: it was trained on none.
    vocabularies: file with the vocabulary of each feature that has one.
    unknown: row of the unknown values of each feature that has one, and their
      counts in training.
  """

  schema: RawSchema
  coders: tuple[Coder, ...]
  out_of_range: str
  format: Mapping[str, Any] | None = None
  vocabularies: Mapping[str, Path] = dataclasses.field(default_factory=dict)
  unknown: Mapping[str, UnknownRow] = dataclasses.field(default_factory=dict)

  @property
  def weighted(self) -> bool:
    """Whether the ids of a column have weights."""
    return any(coder.column.weighted for coder in self.coders)

  def only(self, feature: str) -> 'Intake':
    """The intake of one sparse feature alone, one value a row.

    A value without a row is an error, whatever `out_of_range` is.
    """
    number = [c.column.name for c in self.coders].index(feature)
    single = dataclasses.replace(
      self.coders[number].column, bag=False, weighted=False, hotness=1
    )
    source = dataclasses.replace(
      self.schema.sparse[number],
      feature=single,
      separator=None,
      weights=None,
    )
    coder = dataclasses.replace(
      self.coders[number],
      column=single,
      hotness=1,
      bags=None,
      out_of_range=STOP,
    )
    schema = dataclasses.replace(self.schema, dense=(), sparse=(source,))
    return dataclasses.replace(
      self, schema=schema, coders=(coder,), out_of_range=STOP
    )

  def fit(self) -> Fit:
    """The conditions on rows."""
    longest = {c.column.name: c.hotness for c in self.coders if c.column.bag}
    columns = self.columns
    return Fit(columns, longest, closed_of(self.coders), self.out_of_range)

  @property
  def columns(self) -> Columns:
    """The columns of frames, in the order of the coders."""
    return dataclasses.replace(
      self.schema.columns, sparse=tuple(c.column for c in self.coders)
    )

  def read(
    self, reader: Reader, piece: Piece, bad: BadRows
  ) -> Iterator[EncodedRows]:
    """The rows of a piece of a log, those that can be read, in order."""
    columns, fit = self.columns, self.fit()
    frames = fitting(reader, piece, bad, lambda data: None, fit, numbered=True)
    for frame in frames:
      numbers = frame[NUMBER].cast(pl.Int64).to_numpy()
      good, rows = np.ones(frame.height, bool), frame
      if BAD in frame.columns:
        good = ~frame[BAD].to_numpy()
        rows = frame if good.all() else frame.filter(pl.Series(good))
      names = [n for n in frame.columns if n.startswith(KEPT)]
      kept = frame.select(pl.col(n).alias(n.removeprefix(KEPT)) for n in names)
      yield EncodedRows(
        self._inputs(columns, rows), numbers, good, kept if names else None
      )

  def _inputs(self, columns: Columns, frame: pl.DataFrame) -> Inputs:
    with reading_vocabularies():
      block = encode_frame(columns, self.coders, frame)
    return Inputs(block.dense, block.ids, block.id_weights)

  def inputs(self, frame: pl.DataFrame) -> Inputs:
    """Inputs of the rows of a frame, whose columns are those of the schema.

    Raises:
      InputError: a column is missing, or a value is wrong.
    """
    reader = FrameReader(self.schema, frame)
    bad = BadRows(remedy='Correct or leave out the row')
    parts = [
      rows.inputs
      for piece in reader.pieces(IN_MEMORY)
      for rows in self.read(reader, piece, bad)
    ]
    dense, ids, weights, _ = zip(*parts, strict=True)
    return Inputs(
      np.concatenate(dense),
      np.concatenate(ids),
      None if weights[0] is None else np.concatenate(weights),
    )


def to_json(intake: Intake) -> dict[str, Any]:
  """An intake as JSON can hold it; files are named without their folders."""
  sparse = []
  for source, coder in zip(intake.schema.sparse, intake.coders, strict=True):
    name = coder.column.name
    vocabulary = intake.vocabularies.get(name)
    sparse.append(
      {
        **dataclasses.asdict(coder.column),
        'column': source.column,
        'values': source.values,
        'separator': source.separator,
        'weights': source.weights,
        'table_rows': coder.rows,
        'longest': coder.hotness,
        'change': coder.prepare._asdict(),
        'first_row': coder.base,
        'missing_place': coder.missing,
        'lookup': [path.name for path in coder.tables],
        'bags': coder.bags and coder.bags.name,
        'vocabulary': vocabulary and vocabulary.name,
      }
    )
  return {
    'dense': [
      {**dataclasses.asdict(s.feature), 'column': s.column}
      for s in intake.schema.dense
    ],
    'sparse': sparse,
    'missing': intake.schema.missing._asdict(),
    'out_of_range': intake.out_of_range,
    'format': intake.format,
    'unknown': {name: row._asdict() for name, row in intake.unknown.items()},
  }


def from_json(fields: Mapping[str, Any], folder: Path) -> Intake:
  """The inverse of `to_json`.

  Args:
    fields: what `to_json` gave.
    folder: folder that has the files.
  """
  sources, coders, vocabularies = [], [], {}
  for given in fields['sparse']:
    x = dict(given)
    column, values, separator = (
      x.pop(k) for k in ('column', 'values', 'separator')
    )
    weights, rows, longest = (
      x.pop(k) for k in ('weights', 'table_rows', 'longest')
    )
    change, first, missing = (
      x.pop(k) for k in ('change', 'first_row', 'missing_place')
    )
    lookup, bags, vocabulary = (
      x.pop(k) for k in ('lookup', 'bags', 'vocabulary')
    )
    feature = Sparse(**x)
    sources.append(SparseSource(column, feature, values, separator, weights))
    coders.append(
      Coder(
        *(feature, rows, longest, Values(**change), first, missing),
        tables=tuple(folder / name for name in lookup),
        bags=folder / bags if bags else None,
        out_of_range=fields['out_of_range'],
      )
    )
    if vocabulary:
      vocabularies[feature.name] = folder / vocabulary
  dense = []
  for given in fields['dense']:
    x = dict(given)
    dense.append(DenseSource(x.pop('column'), Dense(**x)))
  missing = {k: tuple(v) for k, v in fields['missing'].items()}
  schema = RawSchema({}, tuple(dense), tuple(sources), missing=Words(**missing))
  return Intake(
    schema,
    tuple(coders),
    fields['out_of_range'],
    fields['format'],
    vocabularies,
    {name: UnknownRow(**row) for name, row in fields['unknown'].items()},
  )
