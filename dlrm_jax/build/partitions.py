"""Partitions from a user's file or function.

A line of `FILE.csv` or `FILE.npy` has the buckets of one id;
`MODULE:FUNCTION` computes buckets from ids with jax.numpy. A run stores the
name with a digest of the buckets of all ids, `FILE.csv#DIGEST`, and so notices
when they change.
"""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding.partitions import Buckets, Given, given
from dlrm_jax.errors import InputError

_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class _StoredBuckets:
  """Looks buckets up in an array, which becomes a constant of the program.

  Attributes:
    buckets: i32[n, k], the k buckets of each id.
  """

  buckets: np.ndarray

  def __call__(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(column)[ids] for column in self.buckets.T)


def _from_npy(path: Path) -> np.ndarray:
  try:
    array = np.load(path)
  except (EOFError, ValueError):
    raise InputError(
      'expected an array of integers, as numpy.save writes it'
    ) from None
  if not isinstance(array, np.ndarray):
    raise InputError('an archive; expected one array')
  return array


def _from_csv(path: Path) -> np.ndarray:
  import polars as pl  # here, as scoring does without

  try:
    frame = pl.read_csv(
      path, glob=False, has_header=False, infer_schema_length=None
    )
  except pl.exceptions.PolarsError as error:
    raise InputError(str(error).splitlines()[0]) from None
  for texts in frame.select(pl.col(pl.String)):
    i = (~texts.str.contains(r'^\d+$').fill_null(False)).arg_max() or 0
    raise InputError(
      f'line {i + 1} has {texts[i]!r}; expected whole numbers, and no header'
    )
  return frame.to_numpy()


def _from_file(path: Path, ids: int) -> Buckets:
  try:
    buckets = _from_npy(path) if path.suffix == '.npy' else _from_csv(path)
  except OSError as error:
    raise InputError(f'partitions {path}: {error.strerror or error}') from None
  except InputError as error:
    raise InputError(f'partitions {path}: {error}') from None
  if buckets.ndim != 2 or len(buckets) < ids or not buckets.shape[1]:
    raise InputError(
      f'partitions {path}: shape {buckets.shape}; expected [{ids}, k], a line '
      f'of k buckets for each of the {ids:,} ids'
    )
  if not np.issubdtype(buckets.dtype, np.integer):
    raise InputError(f'partitions {path}: {buckets.dtype}; expected integers')
  buckets = buckets[:ids]
  wrong = (buckets < 0) | (buckets >= _LARGEST)
  if wrong.any():
    line, column = (int(x[0]) for x in np.nonzero(wrong))
    raise InputError(
      f'partitions {path}: line {line + 1}: bucket {buckets[line, column]}; '
      f'expected numbers from 0, less than {_LARGEST:,}'
    )
  return _StoredBuckets(buckets.astype(np.int32))


def _from_module(source: str) -> Buckets:
  module, _, name = source.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  # Any exception of the user's module.
  except Exception as error:
    raise InputError(
      f'partitions {source!r}: {_message(error)}; expected MODULE:FUNCTION, or '
      f'a .csv or .npy file with the buckets of an id a line'
    ) from None


def _message(error: Exception) -> str:
  """The type and the first 200 characters of an error, in one line."""
  text = ' '.join(str(error).split())[:200]
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def build_partition(source: str, ids: int) -> Given:
  """The partitions that a config names.

  Args:
    source: file or function, with `#DIGEST` where the digest is known.
    ids: n, the number of ids.

  Raises:
    InputError: the partitions cannot be read, are not complementary, or have
      changed.
  """
  if not source:
    raise InputError(
      'partitions are not named; expected MODULE:FUNCTION, FILE.csv or FILE.npy'
    )
  name, _, digest = source.partition('#')
  if Path(name).suffix in ('.csv', '.npy'):
    function = _from_file(Path(name), ids)
  else:
    function = _from_module(name)
  try:
    partition = given(ids, function)
  except InputError:
    raise
  # Any exception of the user's function.
  except Exception as error:
    raise InputError(
      f'partitions {name!r}: {_message(error)}; expected a function of '
      f'jax.numpy, ids i32[...] -> a tuple of bucket numbers i32[...]'
    ) from None
  if digest and digest != partition.digest:
    raise InputError(
      f'partitions {name!r} give other buckets than when the run was started '
      f'(digest {partition.digest}, was {digest}); restore the earlier ones'
    )
  return partition
