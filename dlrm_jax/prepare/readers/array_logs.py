"""Criteo's logs as arrays: which files hold labels, dense, sparse features."""

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.criteo.criteo_rows import DENSE, SPARSE
from dlrm_jax.prepare.readers.array_files import (
  Array,
  Header,
  Mapped,
  Packed,
  open_npy,
  open_npz,
)
from dlrm_jax.prepare.readers.array_rows import ArrayRows
from dlrm_jax.prepare.readers.text_files import check_readable
from dlrm_jax.prepare.values.checks import FIELD
from dlrm_jax.prepare.values.raw_schema import MAX_ROWS

_RECORD = np.dtype(
  [
    ('labels', '<i4'),
    ('dense', '<i4', len(DENSE)),
    ('sparse', '<i4', len(SPARSE)),
  ]
)
_FB_NAMES = ('y', 'X_int', 'X_cat')
_EXPECTED = 'arrays of a Criteo log'
_COUNTS = 'counts'
_COUNTS_FILE = '*_fea_count.npz'
_TORCHREC_NAME = re.compile(r'(.*)_(labels|dense|sparse)([^/]*)\.npy')


class ArrayLog(NamedTuple):
  """The arrays of one log, whose shapes and types fit each other.

  Attributes:
    paths: files of the labels, the dense and the sparse features.
    arrays: arrays of these three, or a single array of `_RECORD`s.
    counts: rows of the 26 tables; None if the file does not have them.
  """

  paths: tuple[str, str, str]
  arrays: tuple[Array, ...]
  counts: tuple[int, ...] | None = None

  @property
  def rows(self) -> int:
    """Number of rows of the log."""
    return self.arrays[0].header.shape[0]

  @property
  def packed(self) -> bool:
    """Whether an array is compressed, so that the log is a single piece."""
    return any(isinstance(array, Packed) for array in self.arrays)

  def parts(self, start: int, stop: int) -> Iterator[ArrayRows]:
    """Rows start ... stop - 1, `FRAME_ROWS` at a time."""
    for parts in zip(
      *(array.parts(start, stop) for array in self.arrays), strict=True
    ):
      if len(parts) == 1:
        yield ArrayRows(*(parts[0][name] for name in _RECORD.names or ()))
      else:
        labels, dense, sparse = (_native(part) for part in parts)
        yield ArrayRows(labels.reshape(-1), dense, sparse)


def _native(values: np.ndarray) -> np.ndarray:
  """Values as 32 or 64 bit numbers in the native byte order."""
  size = 4 if values.dtype.itemsize <= 4 else 8
  return values.astype(f'={values.dtype.kind}{size}', copy=False)


def _checked_arrays(
  paths: tuple[str, str, str], names: Sequence[str], arrays: Sequence[Array]
) -> tuple[Array, ...]:
  """Checks shapes and types of labels, dense and sparse features.

  Raises:
    InputError: a shape or type does not fit.
  """
  rows = arrays[0].header.shape[0]
  if not rows:
    raise InputError(f'{paths[0]}: {names[0]} has no rows')
  kinds = [('if', 'numbers'), ('if', 'numbers'), ('i', 'integers')]
  for path, name, array, width, (kind, what) in zip(
    *(paths, names, arrays, (1, len(DENSE), len(SPARSE)), kinds), strict=True
  ):
    shape, dtype = array.header.shape, array.header.dtype
    fits = shape == (rows, width) or (width == 1 and shape == (rows,))
    if not fits or dtype.kind not in kind:
      raise InputError(
        f'{path}: {name} is {dtype} of shape {shape}; expected {what}, '
        f'{rows:,} x {width}, as there are {rows:,} labels'
      )
  return tuple(arrays)


def open_fb_npz(path: str) -> ArrayLog:
  """Opens an .npz file of facebookresearch/dlrm.

  Raises:
    InputError: an array is missing, or does not fit.
  """
  arrays = open_npz(path, (*_FB_NAMES, _COUNTS))
  for name in _FB_NAMES:
    if name not in arrays:
      raise InputError(
        f'{path} has no array {name}; expected {", ".join(_FB_NAMES)}'
      )
  paths = (path, path, path)
  checked = _checked_arrays(
    paths, _FB_NAMES, [arrays[name] for name in _FB_NAMES]
  )
  counts = counts_in(path, arrays[_COUNTS]) if _COUNTS in arrays else None
  return ArrayLog(paths, checked, counts)


def open_fb_bin(path: str) -> ArrayLog:
  """Opens a .bin file of facebookresearch/dlrm.

  Raises:
    InputError: the file is missing, or has broken records.
  """
  size = check_readable(path, 'records of a Criteo log (fb_bin)')
  rows, rest = divmod(size, _RECORD.itemsize)
  if rest:
    raise InputError(
      f'{path}: {size:,} bytes; expected records of {_RECORD.itemsize}, so '
      f'the last of {rows + 1:,} is cut short, or it is another format'
    )
  header = Header((rows,), False, _RECORD, 0)
  return ArrayLog((path, path, path), (Mapped(path, 0, header),))


def open_torchrec(path: str) -> ArrayLog:
  """Opens the three .npy files of TorchRec, given the path of any one.

  Raises:
    InputError: a file is missing, or does not fit.
  """
  named = _TORCHREC_NAME.fullmatch(path)
  if not named:
    raise InputError(
      f'{path}: expected the name of one of three files, NAME_dense.npy, '
      'NAME_sparse.npy and NAME_labels.npy'
    )
  parts = ('labels', 'dense', 'sparse')
  labels, dense, sparse = (
    path if part == named[2] else _beside(named[1], part) for part in parts
  )
  paths = (labels, dense, sparse)
  arrays = _checked_arrays(paths, parts, [open_npy(p) for p in paths])
  return ArrayLog(paths, arrays)


def _beside(stem: str, part: str) -> str:
  """Path of one of TorchRec's files, such as NAME_sparse_contig_freq.npy."""
  name = f'{stem}_{part}.npy'
  if os.path.exists(name):
    return name
  names = glob.glob(f'{glob.escape(stem)}_{part}*.npy')
  if len(names) != 1:
    hint = f'; name one of {", ".join(sorted(names))}' if names else ''
    raise InputError(f'{name}: no such file{hint}')
  return names[0]


def is_log(kind: str, path: str) -> bool:
  """Whether a file of a folder is an input, not a file beside an input.

  Args:
    kind: format, a key of `OPEN`.
    path: the file.
  """
  if kind == 'torchrec_npy':
    named = _TORCHREC_NAME.fullmatch(path)
    return named is not None and named[2] == 'labels'
  if kind == 'fb_bin':
    return not path.endswith('.npz')
  return not fnmatch.fnmatch(path, _COUNTS_FILE)


def counts_in(path: str, array: Array) -> tuple[int, ...]:
  """Rows of the 26 tables, from an array of a file."""
  shape, _, dtype, _ = array.header
  if dtype.kind not in 'iu' or shape != (len(SPARSE),):
    raise InputError(
      f'{path}: {_COUNTS} is {dtype} of shape {shape}; expected '
      f'{len(SPARSE)} integers, the rows of each table'
    )
  counts = np.concatenate(list(array.parts(0, *shape))).tolist()
  for name, count in zip(SPARSE, counts, strict=True):
    if not 0 < count <= MAX_ROWS:
      raise InputError(
        f'{path}: {_COUNTS} has {count:,} for {name}; expected rows, '
        f'1 ... {MAX_ROWS}'
      )
  return tuple(counts)


def counts_of(path: str) -> tuple[int, ...]:
  """Rows of the 26 tables, from the array `counts` of an .npz file.

  Raises:
    InputError: the file or the array is missing, or wrong.
  """
  arrays = open_npz(path, (_COUNTS,))
  if _COUNTS not in arrays:
    raise InputError(f'{path} has no array {_COUNTS}; expected one')
  return counts_in(path, arrays[_COUNTS])


def counts_beside(files: Sequence[str]) -> str:
  """Finds the file with table sizes among the inputs, or in their folders.

  Raises:
    InputError: no file has them, or several files in the folders do.
  """
  for path in files:
    check_readable(path, _EXPECTED)
    if path.endswith('.npz') and open_npz(path, (_COUNTS,)):
      return path
  folders = dict.fromkeys(os.path.dirname(path) for path in files)
  beside = [
    name
    for folder in folders
    for name in sorted(
      glob.glob(os.path.join(glob.escape(folder), _COUNTS_FILE))
    )
  ]
  if len(beside) != 1:
    seen = f', but {", ".join(beside)} beside the files' if beside else ''
    raise InputError(
      f'config.{FIELD} has no {_COUNTS}{seen}; expected the .npz file with '
      f'the array {_COUNTS} (a log itself, or {_COUNTS_FILE}), or rows of '
      f'{len(SPARSE)} tables'
    )
  return beside[0]


OPEN: Mapping[str, Callable[[str], ArrayLog]] = {
  'fb_npz': open_fb_npz,
  'fb_bin': open_fb_bin,
  'torchrec_npy': open_torchrec,
}
"""Opens a file, by format."""
