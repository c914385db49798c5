"""A checkpoint as it lies on the disk, and its way into a state.

Orbax writes arrays as zarr in one OCDBT store; they are read from there by
TensorStore straight to their devices, and summed there. Where the layout of the
tables is another one than is wanted, `moving` takes their rows there, a block
after the other. Every block is compared with its checksum before anybody sees
the state. Nothing else of a folder is looked at.
"""

import bisect
import collections
import json
import math
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts
from tqdm import tqdm

from dlrm_jax import files
from dlrm_jax.checkpoint import checksums
from dlrm_jax.checkpoint.checksums import Sums
from dlrm_jax.checkpoint.damage import Damaged, result_of
from dlrm_jax.checkpoint.fits import check_fits, family_of, leaves
from dlrm_jax.checkpoint.moving import move, on_devices, rows_to_move
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.layout import from_json as layout_from_json
from dlrm_jax.errors import InputError
from dlrm_jax.training.state import TrainState

STATE, LAYOUT, METRICS, CHECKSUMS = 'state', 'layout', 'metrics', 'checksums'
"""Folders of a checkpoint."""

_FILES = {LAYOUT: 'metadata', METRICS: 'metrics', CHECKSUMS: 'metadata'}
_SUM = 'crc32'  # of metrics, beside them
_AHEAD = 16 * 2**20  # bytes that are read while a block is checked
_KEPT = 16 * 2**20  # bytes of an array that are kept for the next read
_SHORT = 3  # seconds; a move that takes less shows no bar


def checksum_of(value: Any) -> int:
  """Of what a JSON file says, however it is written."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_item(folder: Path, item: str) -> dict[str, Any]:
  """What a JSON file of a checkpoint says.

  Raises:
    Damaged: it is not there, or holds no JSON.
    OSError: it can't be read.
  """
  path = folder / item / _FILES[item]
  try:
    value = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise Damaged(f'{path} is missing') from None
  except ValueError as error:
    raise Damaged(f'{path} holds no JSON ({error})') from None
  if not isinstance(value, dict):
    raise Damaged(f'{path} holds {str(value)[:40]}; expected a JSON object')
  return value


def read_checksums(folder: Path) -> dict[str, Any] | None:
  """What was noted when a checkpoint was made; None: by an earlier version."""
  there = (folder / CHECKSUMS).is_dir()
  return read_item(folder, CHECKSUMS) if there else None


def with_checksum(metrics: Mapping[str, float]) -> dict[str, Any]:
  """Metrics as a checkpoint has them; what is not finite is null."""
  known = json.loads(files.to_json(metrics))
  return known | {_SUM: checksum_of(known)}


def read_metrics(folder: Path) -> dict[str, Any]:
  """Metrics of a checkpoint, empty where it was not evaluated.

  Raises:
    Damaged: they are not those that were written.
    OSError: they can't be read.
  """
  if not (folder / METRICS).is_dir():
    return {}
  metrics = read_item(folder, METRICS)
  noted = metrics.pop(_SUM, None)
  new = (folder / CHECKSUMS).is_dir()
  if (new or noted is not None) and noted != checksum_of(metrics):
    raise Damaged(f'{folder / METRICS} differs from its checksum')
  return metrics


class Blocks:
  """An array of a checkpoint; what is read of it is as it was written."""

  def __init__(
    self, where: str, array: ts.TensorStore, sums: Sums | None
  ) -> None:
    """Takes an open array.

    Args:
      where: folder and name, for messages.
      array: of which any part can be read.
      sums: None: an earlier version wrote none.
    """
    self.shape, self.dtype = array.shape, array.dtype.numpy_dtype
    self._where, self._array = where, array
    rows = self.shape[0] if self.shape else 1
    if sums is None:
      piece = (array.chunk_layout.read_chunk.shape or (1,))[0]
      self.cuts = Sums(rows, piece or rows, ()).blocks(rows)
    else:
      self.cuts = sums.blocks(rows)
      if len(self.cuts) != len(sums.sums):
        raise Damaged(f'{where}: its checksums are of another array')
    self._sums = None if sums is None else sums.sums
    self._starts = [start for start, _ in self.cuts]
    most = max((end - start for start, end in self.cuts), default=1)
    most *= math.prod(self.shape[1:]) * self.dtype.itemsize
    self._ahead = max(1, _AHEAD // max(most, 1))
    self._most_kept = self._ahead + _KEPT // max(most, 1)
    self._kept: collections.OrderedDict[int, np.ndarray] = (
      collections.OrderedDict()
    )

  def __getitem__(self, rows: slice) -> np.ndarray:
    """A copy of some rows."""
    low, high, _ = rows.indices(self.shape[0])
    values = np.empty((high - low, *self.shape[1:]), self.dtype)
    first = bisect.bisect_right(self._starts, low) - 1
    last = bisect.bisect_left(self._starts, high)
    coming: dict[int, Any] = {}
    for k in range(first, last):
      for ahead in range(k, min(k + self._ahead, last)):
        if ahead not in self._kept and ahead not in coming:
          coming[ahead] = self._array[slice(*self.cuts[ahead])].read()
      start, end = self.cuts[k]
      a, b = max(start, low), min(end, high)
      block = self._block(k, coming.pop(k, None))
      values[a - low : b - low] = block[a - start : b - start]
    return values

  def _block(self, k: int, coming: Any) -> np.ndarray:
    """A block, from those kept or as it comes."""
    if coming is None:
      return self._kept[k]
    values = np.asarray(result_of(coming))
    self._compare(k, checksums.sum_of(values, self._starts[k]))
    self._kept[k] = values
    if len(self._kept) > self._most_kept:
      self._kept.popitem(last=False)
    return values

  def unchecked(self, index: tuple[slice, ...]) -> np.ndarray:
    """A part; whoever reads it calls `check` before it is used."""
    return np.asarray(result_of(self._array[index].read()))

  def summed(self, x: jax.Array) -> checksums.LocalSums | None:
    """Starts to sum what was read into an array, where there are checksums."""
    return None if self._sums is None else checksums.LocalSums(x, self.cuts)

  def check(self, local: checksums.LocalSums) -> None:
    """Compares blocks of which this process has rows.

    Raises:
      Damaged: one of them is not as it was written.
    """
    for k, value in local.numbers().items():
      # Rows that only other processes have; read, so that sums are of blocks.
      for low, high in local.absent(k):
        value += checksums.sum_of(self.unchecked((slice(low, high),)), low)
      self._compare(k, value % 2**32)

  def _compare(self, k: int, value: int) -> None:
    start, end = self.cuts[k]
    if self._sums is not None and self._sums[k] != value:
      raise Damaged(
        f'{self._where}: rows {start:,} to {end - 1:,} differ from their '
        f'checksum'
      )


class Stored(NamedTuple):
  """A checkpoint.

  Attributes:
    folder: of all of it.
    arrays: of its state, by name.
    layout: of its tables.
  """

  folder: Path
  arrays: Mapping[str, Blocks]
  layout: Layout


def _layout(folder: Path, noted: Mapping[str, Any] | None) -> Layout:
  if noted is None and not (folder / LAYOUT).is_dir():
    raise InputError(
      f'{folder}: written by an earlier version of dlrm_jax, which kept no '
      f'layout of its tables; use that version, or train anew'
    )
  saved = read_item(folder, LAYOUT)
  if noted is not None and noted.get(LAYOUT) != checksum_of(saved):
    raise Damaged(f'{folder / LAYOUT} differs from its checksum')
  try:
    return layout_from_json(saved)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise Damaged(f'{folder / LAYOUT} is no layout ({error!r})') from None


def _sums(folder: Path, noted: Mapping[str, Any]) -> dict[str, Sums]:
  try:
    return checksums.from_json(noted['arrays'])
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    path = folder / CHECKSUMS
    raise Damaged(f'{path} holds no checksums ({error!r})') from None


def _open_arrays(
  folder: Path, sums: Mapping[str, Sums] | None
) -> dict[str, Blocks]:
  """All arrays of the state; none of them is read."""
  base = {'driver': 'file', 'path': f'{(folder / STATE).absolute()}/'}
  context = ts.Context({'cache_pool': {'total_bytes_limit': 0}})
  store = {'driver': 'ocdbt', 'base': base}
  keys = result_of(result_of(ts.KvStore.open(store, context=context)).list())
  ends = '/.zarray'
  names = [k.decode() for k in keys]
  names = [name.removesuffix(ends) for name in names if name.endswith(ends)]
  if not names:
    raise Damaged(f'{folder / STATE} holds no arrays')
  if sums is not None and sums.keys() != set(names):
    differ = ', '.join(sorted(sums.keys() ^ set(names)))
    raise Damaged(f'{folder / STATE}: arrays and checksums differ: {differ}')
  opening = {
    name: ts.open(
      {
        'driver': 'zarr',
        'kvstore': {**store, 'path': f'{name}/'},
        'fill_missing_data_reads': False,
      },
      context=context,
      read=True,
    )
    for name in names
  }
  return {
    name: Blocks(
      f'{folder / STATE}: {name.replace(".", "/")}',
      result_of(array),
      None if sums is None else sums[name],
    )
    for name, array in opening.items()
  }


def open_stored(folder: Path) -> Stored:
  """Opens a checkpoint.

  Raises:
    InputError: an earlier version wrote it, which can't be read any more.
    Damaged: something is not as it was written.
    OSError, StoreError: something can't be read.
  """
  noted = read_checksums(folder)
  sums = None if noted is None else _sums(folder, noted)
  layout = _layout(folder, noted)
  if noted is None:
    print(f'{folder}: written without checksums by an earlier version')
  return Stored(folder, _open_arrays(folder, sums), layout)


def _as_stored(
  arrays: Mapping[str, Blocks], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Arrays of the same layout; each process reads its part."""
  made, summed = {}, {}
  for name, like in wanted.items():
    made[name] = on_devices(like, arrays[name].unchecked)
    summed[name] = arrays[name].summed(made[name])
  for name, local in summed.items():
    if local is not None:
      arrays[name].check(local)
  return made


def _moved(
  stored: Stored,
  families: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]],
  layout: Layout,
) -> dict[str, jax.Array]:
  """Families of tables in another layout; a process reads rows of its part."""
  made = {}
  with tqdm(
    desc='moving tables',
    total=len(families) * rows_to_move(stored.layout, layout),
    unit=' rows',
    unit_scale=True,
    delay=_SHORT,
    mininterval=0.1 if sys.stderr.isatty() else 5,
    disable=jax.process_index() > 0,
  ) as bar:
    for family, wanted in families.items():
      arrays = {
        stack: stored.arrays[f'{family}.{stack}']
        for stack in stored.layout.stacks
      }
      moved = move(arrays, stored.layout, wanted, layout, bar.update)
      made |= {f'{family}.{stack}': x for stack, x in moved.items()}
  return made


def restore(stored: Stored, abstract: TrainState, layout: Layout) -> TrainState:
  """The state of a checkpoint, whatever layout and devices it was made with.

  Args:
    stored: the checkpoint.
    abstract: shapes, dtypes and shardings wanted; a field that is None is not
      read.
    layout: of the tables wanted.

  Raises:
    InputError: it is of other tables or layers.
    Damaged: something is not as it was written.
    OSError, StoreError: something can't be read.
  """
  folder, arrays, then = stored
  check_fits(folder, then, arrays, abstract, layout)
  wanted = leaves(abstract)
  families: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
  same = {}
  for name, like in wanted.items():
    family = family_of(name, layout)
    if family and (then != layout or arrays[name].shape != like.shape):
      families.setdefault(family[0], {})[family[1]] = like
    else:
      same[name] = like
  made = _as_stored(arrays, same)
  if families:
    print(f'{folder}: tables are laid out anew, as the config says')
    made |= _moved(stored, families, layout)
  _, structure = jax.tree.flatten(abstract)
  return jax.tree.unflatten(structure, [made[name] for name in wanted])
