"""Settings for Criteo click logs (Kaggle train.txt, 1TB day_*.gz).

Values of a feature are numbered in one of three ways: by frequency, as in
facebookresearch/dlrm, or as in torchrec and MLPerf. Or they are hashed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.criteo.criteo_reader import CriteoReader
from dlrm_jax.prepare.preparation import (
  Preparation,
  Settings,
  preparation_of,
)
from dlrm_jax.prepare.splits import DEFAULT
from dlrm_jax.prepare.stages.number import MAX_ROWS, Numbering
from dlrm_jax.vocabulary.coder import Values

_MODES = ('frequency', 'fb', 'torchrec')


@dataclasses.dataclass(frozen=True)
class CriteoSettings:
  """Settings of a preparation of a Criteo log.

  Attributes:
    mode: 'frequency': values of the training rows are numbered from 1 by
      falling count; 'fb', as in facebookresearch/dlrm: values of all rows are
      numbered from 0 in the order in which they appear, a missing value is
      the value 0, and integers become log(max(x, 0) + 1); 'torchrec', as in
      MLPerf: the same from 2, with row 1 for values that occur fewer than
      `min_count` times, and integers become log(x + 3).
    min_count: number of rows in which a value with a row of its own occurs at
      least; None: 1, or 3 in mode torchrec.
    max_ind_range: number modulo which mode fb takes values; 0: values stay.
    hash_rows: number of rows of each table if values are hashed; None: values
      have vocabularies.
    multi_hot: number of ids in the made-up bag of each sparse feature, as in
      MLPerf; empty: ids stay.
    num_embeddings: number of rows of each table, modulo which ids are taken;
      empty: each table has the rows of its vocabulary.
    splits: shares of the rows in file order, as of --splits; None: each split
      has files of its own.
    shuffle: whether the rows of split train are shuffled.
    seed: seed of the shuffle.
    on_bad_row: 'stop' or 'skip'.
  """

  mode: str = 'frequency'
  min_count: int | None = None
  max_ind_range: int = 0
  hash_rows: int | None = None
  multi_hot: tuple[int, ...] = ()
  num_embeddings: tuple[int, ...] = ()
  splits: str | None = DEFAULT
  shuffle: bool = True
  seed: int = 0
  on_bad_row: str = 'stop'

  def __post_init__(self) -> None:
    if self.mode not in _MODES:
      raise InputError(
        f'--mode={self.mode}: expected one of {", ".join(_MODES)}'
      )
    if self.min_count is not None and self.min_count < 1:
      raise InputError(f'--min_count={self.min_count}: expected 1 or more')
    if self.mode == 'fb' and self.min_count not in (None, 1):
      raise InputError(
        f'--min_count={self.min_count}: mode fb has a row for every value; '
        'leave it out, or choose another --mode'
      )
    if self.max_ind_range and self.mode != 'fb':
      raise InputError(
        f'--max_ind_range={self.max_ind_range}: only mode fb takes values '
        'modulo a number; add --mode=fb, or use --hash_rows'
      )
    if not 0 <= self.max_ind_range <= MAX_ROWS:
      raise InputError(
        f'--max_ind_range={self.max_ind_range}: expected 1 ... {MAX_ROWS}'
      )
    if not 0 <= self.seed < 2**63:
      raise InputError(f'--seed={self.seed}: expected 0 ... 2^63 - 1')
    self._check_hashing()

  def _check_hashing(self) -> None:
    if self.hash_rows is None:
      return
    if not 1 <= self.hash_rows <= MAX_ROWS:
      raise InputError(
        f'--hash_rows={self.hash_rows}: expected 1 ... {MAX_ROWS}'
      )
    if self.min_count is not None or self.mode == 'fb':
      raise InputError(
        '--min_count or --mode=fb and --hash_rows exclude each other: hashing '
        'counts nothing'
      )
    if self.num_embeddings:
      raise InputError(
        '--num_embeddings and --hash_rows exclude each other: both say how '
        'many rows a table has'
      )

  @property
  def reader(self) -> CriteoReader:
    """The reader of the files."""
    transform = 'log3' if self.mode == 'torchrec' else 'log1p'
    return CriteoReader(
      transform, self.hash_rows or 0, self.multi_hot, self.num_embeddings
    )

  @property
  def numbering(self) -> Numbering:
    """The numbering of the values."""
    if self.mode == 'fb':
      values = Values(missing_is_zero=True, modulo=self.max_ind_range)
      return Numbering('appearance', 0, 1, everything=True, values=values)
    if self.mode == 'torchrec':
      least = 3 if self.min_count is None else self.min_count
      values = Values(missing_is_zero=True)
      return Numbering('appearance', 2, least, everything=True, values=values)
    return Numbering(min_count=self.min_count or 1)

  @property
  def described(self) -> str:
    """The way values become rows, in words."""
    words = [self._described]
    if self.num_embeddings:
      words.append(f'modulo {sum(self.num_embeddings):,} table rows')
    if self.multi_hot:
      words.append(f'in made-up bags, {sum(self.multi_hot)} ids an example')
    return '; '.join(words)

  @property
  def _described(self) -> str:
    numbering = self.numbering
    if self.hash_rows:
      return f'hashed into {self.hash_rows:,} rows a column'
    rows = 'rows' if numbering.everything else 'training rows'
    if self.mode == 'fb':
      return 'a row for every id of all rows, from 0, as they first appear'
    if numbering.min_count == 1:
      return f'a row for every id of the {rows}, one for all others'
    return (
      f'a row for every id in {numbering.min_count:,} or more {rows}, one '
      'for all others'
    )


def criteo_preparation(
  inputs: Mapping[str, Sequence[str]], settings: CriteoSettings
) -> Preparation:
  """The preparation of Criteo files.

  Args:
    inputs: files in time order, by split if `settings.splits` is None; else
      those of one part, 'all', which is cut by shares.
    settings: the settings.

  Raises:
    InputError: a file or a setting is wrong.
  """
  return preparation_of(
    settings.reader,
    inputs,
    Settings(
      splits=settings.splits,
      numbering=settings.numbering,
      shuffle=settings.shuffle,
      seed=settings.seed,
      on_bad_row=settings.on_bad_row,
    ),
    settings.reader.to_json(),
  )
