"""A preparation: raw files, their reader, and settings."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dlrm_jax.data.manifest import FORMAT
from dlrm_jax.data.prepared import Prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import notes
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.reader import Piece, Reader
from dlrm_jax.prepare.splits import parse_splits
from dlrm_jax.prepare.stages.number import Numbering
from dlrm_jax.prepare.work import LAYOUT
from dlrm_jax.vocabulary.hashing import HASH
from dlrm_jax.vocabulary.policy import STOP


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a preparation.

  Attributes:
    splits: shares of the rows in file order, as of --splits; None: each split
      has files of its own.
    numbering: numbering of values by vocabularies.
    shuffle: whether the rows of split train are shuffled.
    seed: seed of the shuffle.
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


class Preparation(NamedTuple):
  """All that determines a prepared set.

  Attributes:
    reader: reader of the format.
    inputs: files in time order, by split; or those of one part, 'all', which
      is cut into splits.
    pieces: pieces of all files in order, each with its key of `inputs`.
    rows: estimated number of rows in all files.
    settings: the settings.
    format: description of the reader, from which `known_ids.reader_of_set`
      creates it again.
    known: a set whose vocabularies are used; None: they are counted.
    longest: number of ids in the longest bag of a feature, once it is known.
    out_of_range: 'stop', or 'unknown': a value without a row gets row 0.
  """

  reader: Reader
  inputs: Mapping[str, Sequence[str]]
  pieces: Sequence[tuple[str, Piece]]
  rows: int
  settings: Settings
  format: Mapping[str, Any]
  known: Prepared | None = None
  longest: Mapping[str, int] = {}
  out_of_range: str = STOP

  @property
  def row_bytes(self) -> int:
    """Estimated bytes of an encoded example."""
    columns = self.reader.columns
    hotness = sum(
      (2 if c.weighted else 1) * (c.hotness or self.longest.get(c.name, 8))
      for c in columns.sparse
    )
    others = len(columns.targets) + columns.weight + columns.group
    return 4 * (len(columns.dense) + hotness + others)

  @property
  def disk(self) -> int:
    """Bytes of disk used meanwhile: spool, encoded rows, made-up bags."""
    columns = self.reader.columns
    spool = 4 * (1 + len(columns.dense) + len(columns.sparse))
    drawn = sum(
      4 * (c.rows or c.modulo) * (c.hotness - 1)
      for c in columns.sparse
      if c.expand
    )
    # A tenth more is for counts and lookup tables.
    written = self.rows * max(self.row_bytes * 2, spool + self.row_bytes)
    return drawn + int(1.1 * written) + (16 << 20)

  def plan(self) -> dict[str, Any]:
    """All that determines the result, as a JSON value."""
    # Without 'on_bad_row': parsed pieces had no bad rows.
    options = dataclasses.asdict(
      dataclasses.replace(self.settings, on_bad_row='')
    )
    files = {
      part: [notes.file_identity(name) for name in names]
      for part, names in self.inputs.items()
    }
    plan = {
      'version': FORMAT,
      'layout': LAYOUT,
      'format': dict(self.format),
      'options': options,
      'hash': HASH,
      'files': files,
      'pieces': [tuple(piece) for _, piece in self.pieces],
      'vocabulary': self.known and self.known.details['ids'],
    }
    if self.out_of_range != STOP:  # Older plans do not have the field.
      plan['out_of_range'] = self.out_of_range
    return json.loads(json.dumps(plan))


def preparation_of(
  reader: Reader,
  inputs: Mapping[str, Sequence[str]],
  settings: Settings,
  description: Mapping[str, Any],
  known: Prepared | None = None,
  out_of_range: str = STOP,
) -> Preparation:
  """Checks settings and files, without reading the files through.

  Args:
    reader: reader of the format.
    inputs: as in `Preparation`.
    settings: the settings.
    description: description of the reader.
    known: a set whose vocabularies are used; None: they are counted.
    out_of_range: as in `Preparation`.

  Raises:
    InputError: a file or a setting is wrong.
  """
  if settings.splits is not None:
    parse_splits(settings.splits, train=known is None)
  BadRows(settings.on_bad_row)
  pieces = [
    (part, piece)
    for part, names in inputs.items()
    for name in names
    for piece in reader.pieces(name)
  ]
  rows = sum(reader.about(f) for names in inputs.values() for f in names)
  return Preparation(
    reader, inputs, pieces, rows, settings, description, known, {}, out_of_range
  )
