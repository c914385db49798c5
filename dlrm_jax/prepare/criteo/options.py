"""Criteo click logs (Kaggle train.txt, 1TB day_*.gz): how to prepare them.

Three ways to number the values of a feature: by frequency (ours), as
facebookresearch/dlrm does, and as torchrec and MLPerf do; or hashing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from dlrm_jax.data.prepared import Prepared, open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import budget, pipeline
from dlrm_jax.prepare.criteo.criteo_reader import CriteoReader
from dlrm_jax.prepare.pipeline import Job, job_of
from dlrm_jax.prepare.splits import DEFAULT as DEFAULT
from dlrm_jax.prepare.stages.number import Numbering
from dlrm_jax.vocabulary.coder import Values

MAX_ROWS = 2**31 - 1

_MODES = ('frequency', 'fb', 'torchrec')


@dataclasses.dataclass(frozen=True)
class Options:
  """How to prepare.

  Attributes:
    mode: 'frequency'; 'fb': all rows are counted, values are numbered from 0
      as they first appear, a missing one is the value 0, and integers become
      log(max(x, 0) + 1), as in facebookresearch/dlrm; 'torchrec': the same
      from 2, row 1 for values seen less than `min_count` times, and integers
      become log(x + 3), as in MLPerf.
    min_count: values that fewer rows have share a row; None: 1, or the 3 of
      torchrec.
    max_ind_range: mode fb: values are taken modulo this; 0: as they are.
    hash_rows: rows a column to hash into; None: vocabularies.
    multi_hot: ids of the bag that each id becomes, of every sparse feature, as
      MLPerf makes them up; empty: ids stay as they are.
    num_embeddings: rows of every table, modulo which ids are taken; empty:
      those of the vocabularies.
    splits: shares in file order; None: the files say (train, validation,
      test each from their own).
    shuffle: whether the rows of split train are shuffled.
    seed: of the shuffle.
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
    """Reads the files."""
    transform = 'log3' if self.mode == 'torchrec' else 'log1p'
    return CriteoReader(
      transform, self.hash_rows or 0, self.multi_hot, self.num_embeddings
    )

  @property
  def numbering(self) -> Numbering:
    """Numbers the values."""
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
    """The rows of categories, in words."""
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


def job(inputs: Mapping[str, Sequence[str]], options: Options) -> Job:
  """What is to be done to prepare files.

  Args:
    inputs: files in time order by split when `options.splits` is None; else
      those of one part, which is cut by shares.
    options: numbering, splits, bad rows.

  Raises:
    InputError: a file or an option is wrong.
  """
  return job_of(
    options.reader,
    inputs,
    pipeline.Options(
      splits=options.splits,
      numbering=options.numbering,
      shuffle=options.shuffle,
      seed=options.seed,
      on_bad_row=options.on_bad_row,
    ),
    options.reader.to_json(),
  )


def prepare(
  inputs: Mapping[str, Sequence[str]],
  output: str,
  options: Options = Options(),
  overwrite: bool = False,
) -> Prepared:
  """Makes a prepared set of raw logs; see `job` and `pipeline.run`."""
  work = job(inputs, options)
  pipeline.run(work, output, budget.default_memory(), overwrite)
  return open_prepared(output)
