"""Partitions of a user's own: from a file, or from a function.

`FILE.csv` and `FILE.npy` have the buckets of an id a line, `MODULE:FUNCTION`
makes them of ids in jax.numpy. A run remembers them with a digest of the
buckets of all ids, `FILE.csv#DIGEST`, so that it sees if they change.
"""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from dlrm_jax.embedding.partitions import Buckets, Given, given
from dlrm_jax.errors import InputError

_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class _Columns:
  """Buckets of a file, i32[n, k]; they become constants of a program."""

  found: np.ndarray

  def __call__(self, ids: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(column)[ids] for column in self.found.T)


def _from_npy(path: Path) -> np.ndarray:
  try:
    found = np.load(path)
  except (EOFError, ValueError):
    raise InputError(
      'expected an array of integers, as numpy.save writes it'
    ) from None
  if not isinstance(found, np.ndarray):
    raise InputError('an archive; expected one array')
  return found


def _from_csv(path: Path) -> np.ndarray:
  try:
    found = pl.read_csv(path, has_header=False, infer_schema_length=None)
  except pl.exceptions.PolarsError as error:
    raise InputError(str(error).splitlines()[0]) from None
  for words in found.select(pl.col(pl.String)):
    at = (~words.str.contains(r'^\d+$').fill_null(False)).arg_max() or 0
    raise InputError(
      f'line {at + 1} has {words[at]!r}; expected whole numbers, and no header'
    )
  return found.to_numpy()


def _from_file(path: Path, ids: int) -> Buckets:
  try:
    found = _from_npy(path) if path.suffix == '.npy' else _from_csv(path)
  except OSError as error:
    raise InputError(f'partitions {path}: {error.strerror or error}') from None
  except InputError as error:
    raise InputError(f'partitions {path}: {error}') from None
  if found.ndim != 2 or len(found) < ids or not found.shape[1]:
    raise InputError(
      f'partitions {path}: shape {found.shape}; expected [{ids}, k], a line of '
      f'k buckets for each of the {ids:,} ids'
    )
  if not np.issubdtype(found.dtype, np.integer):
    raise InputError(f'partitions {path}: {found.dtype}; expected integers')
  found = found[:ids]
  wrong = (found < 0) | (found >= _LARGEST)
  if wrong.any():
    line, column = (int(x[0]) for x in np.nonzero(wrong))
    raise InputError(
      f'partitions {path}: line {line + 1}: bucket {found[line, column]}; '
      f'expected numbers from 0, less than {_LARGEST:,}'
    )
  return _Columns(found.astype(np.int32))


def _from_module(source: str) -> Buckets:
  module, _, name = source.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  # Whatever a user's module does when it is run.
  except Exception as error:
    raise InputError(
      f'partitions {source!r}: {_said(error)}; expected MODULE:FUNCTION, or a '
      f'.csv or .npy file with the buckets of an id a line'
    ) from None


def _said(error: Exception) -> str:
  text = ' '.join(str(error).split())[:200]
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def build_partition(source: str, ids: int) -> Given:
  """The partitions that a config names.

  Args:
    source: file or function, and `#DIGEST` where it is known.
    ids: n.

  Raises:
    InputError: they can't be read, are not complementary, or have changed.
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
    found = given(ids, function)
  except InputError:
    raise
  # Whatever a user's function does.
  except Exception as error:
    raise InputError(
      f'partitions {name!r}: {_said(error)}; expected a function of jax.numpy, '
      f'ids i32[...] -> a tuple of bucket numbers i32[...]'
    ) from None
  if digest and digest != found.digest:
    raise InputError(
      f'partitions {name!r} give other buckets than when the run was started '
      f'(digest {found.digest}, was {digest}); put back what they were'
    )
  return found
