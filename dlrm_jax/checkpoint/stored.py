"""Checkpoints on disk, and how they are read into a state.

Orbax writes arrays as zarr in one OCDBT store. TensorStore reads them from
there, each device its part, and the devices compute checksums. Where the
layout of the tables differs from the wanted one, `moving` moves their rows
block by block. The state is returned only after every block was compared with
its checksum. Other files in the folder are ignored.
"""

import json
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tensorstore as ts
from tqdm import tqdm

from dlrm_jax import files
from dlrm_jax.checkpoint import checksums
from dlrm_jax.checkpoint.checksums import Sums
from dlrm_jax.checkpoint.damage import Damaged, result_of
from dlrm_jax.checkpoint.fits import TABLES, check_fits, leaves, rows_name
from dlrm_jax.checkpoint.moving import move, on_devices, rows_to_move
from dlrm_jax.checkpoint.stored_array import StoredArray
from dlrm_jax.embedding.layout import Layout, layout_from_json
from dlrm_jax.embedding.storage import Storage
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree
from dlrm_jax.training.state import TrainState

STATE, LAYOUT, METRICS, CHECKSUMS = 'state', 'layout', 'metrics', 'checksums'
"""Folders of a checkpoint."""

_FILES = {LAYOUT: 'metadata', METRICS: 'metrics', CHECKSUMS: 'metadata'}
_SUM = 'crc32'  # key of the metrics' checksum, beside the metrics
_SHORT = 3  # seconds; a shorter move shows no progress bar


def checksum_of(value: Any) -> int:
  """Checksum of a JSON value, whatever the order of its keys."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_item(folder: Path, item: str) -> dict[str, Any]:
  """The JSON object in a file of a checkpoint.

  Raises:
    Damaged: the file is missing, or holds no JSON object.
    OSError: it cannot be read.
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
  """The checksums of a checkpoint; None: an earlier version wrote it."""
  exists = (folder / CHECKSUMS).is_dir()
  return read_item(folder, CHECKSUMS) if exists else None


def with_checksum(metrics: Mapping[str, float]) -> dict[str, Any]:
  """Metrics as a checkpoint keeps them, null where they are not finite."""
  known = json.loads(files.to_json(metrics))
  return known | {_SUM: checksum_of(known)}


def read_metrics(folder: Path) -> dict[str, Any]:
  """Metrics of a checkpoint; empty if it was not evaluated.

  Raises:
    Damaged: they differ from their checksum.
    OSError: they cannot be read.
  """
  if not (folder / METRICS).is_dir():
    return {}
  metrics = read_item(folder, METRICS)
  noted = metrics.pop(_SUM, None)
  new = (folder / CHECKSUMS).is_dir()
  if (new or noted is not None) and noted != checksum_of(metrics):
    raise Damaged(f'{folder / METRICS} differs from its checksum')
  return metrics


class Stored(NamedTuple):
  """A checkpoint.

  Attributes:
    folder: the folder of the checkpoint.
    arrays: arrays of the state, by name.
    layout: layout of the tables.
  """

  folder: Path
  arrays: Mapping[str, StoredArray]
  layout: Layout


def _layout(folder: Path, noted: Mapping[str, Any] | None) -> Layout:
  """The layout of a checkpoint."""
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
  except InputError as error:
    raise InputError(f'{folder}: {error}') from None
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise Damaged(f'{folder / LAYOUT} is no layout ({error!r})') from None


def _sums(folder: Path, noted: Mapping[str, Any]) -> dict[str, Sums]:
  try:
    return checksums.sums_from_json(noted['arrays'])
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    path = folder / CHECKSUMS
    raise Damaged(f'{path} holds no checksums ({error!r})') from None


def _open_arrays(
  folder: Path, sums: Mapping[str, Sums] | None
) -> dict[str, StoredArray]:
  """Opens all arrays of the state; reads none of them."""
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
    name: StoredArray(
      f'{folder / STATE}: {name.replace(".", "/")}',
      result_of(array),
      None if sums is None else sums[name],
    )
    for name, array in opening.items()
  }


def open_stored(folder: Path) -> Stored:
  """Opens a checkpoint.

  Raises:
    InputError: its version or a storage of its tables is not known.
    Damaged: something differs from what was written.
    OSError, StoreError: something cannot be read.
  """
  noted = read_checksums(folder)
  sums = None if noted is None else _sums(folder, noted)
  layout = _layout(folder, noted)
  if noted is None:
    print(f'{folder}: written without checksums by an earlier version')
  return Stored(folder, _open_arrays(folder, sums), layout)


def read_arrays(
  arrays: Mapping[str, StoredArray], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Arrays of the same layout; each process reads its part."""
  result, summed = {}, {}
  for name, like in wanted.items():
    result[name] = on_devices(like, arrays[name].unchecked)
    summed[name] = arrays[name].summed(result[name])
  for name, local in summed.items():
    if local is not None:
      arrays[name].check(local)
  return result


_Family = dict[str, Pytree]  # for each stack an array, or a dict of arrays


def families_of(
  arrays: Mapping[str, Any], layout: Layout
) -> dict[str, _Family]:
  """Arrays with rows, or their shapes, by family and stack."""
  families: dict[str, _Family] = {}
  for name, x in arrays.items():
    if parts := rows_name(name, layout):
      family = families.setdefault(parts.family, {})
      if parts.array:
        family.setdefault(parts.stack, {})[parts.array] = x
      else:
        family[parts.stack] = x
  return families


def _moved(
  stored: Stored, families: Mapping[str, _Family], layout: Layout
) -> dict[str, jax.Array]:
  """Arrays of families in another layout; a process reads only its rows."""
  result: dict[str, jax.Array] = {}
  there = families_of(stored.arrays, stored.layout)
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
      old, new = stored.layout, layout
      if family != TABLES:
        old, new = old.of_state, new.of_state
      stacks = move(there[family], old, wanted, new, bar.update)
      result |= {f'{family}.{k}': x for k, x in leaves(stacks).items()}
  return result


def read_state(
  stored: Stored, abstract: TrainState, layout: Layout
) -> TrainState:
  """The state of a checkpoint, whatever layout and devices wrote it.

  Args:
    stored: the checkpoint.
    abstract: shapes, dtypes and shardings wanted; fields that are None are
      not read.
    layout: layout of the tables wanted.

  Raises:
    InputError: the checkpoint has other tables or layers.
    Damaged: something differs from what was written.
    OSError, StoreError: something cannot be read.
  """
  folder, arrays, then = stored
  check_fits(folder, then, arrays, abstract, layout)
  wanted = leaves(abstract)
  families = {
    family: stacks
    for family, stacks in families_of(wanted, layout).items()
    if then != layout or _other_shapes(family, stacks, arrays)
  }
  others = {f'{k}.{name}' for k, v in families.items() for name in leaves(v)}
  same = {name: like for name, like in wanted.items() if name not in others}
  result = read_arrays(arrays, same)
  if families:
    if _same_storages(then, layout):
      print(f'{folder}: tables are laid out anew, as the config says')
    result |= _moved(stored, families, layout)
  _, structure = jax.tree.flatten(abstract)
  return jax.tree.unflatten(structure, [result[name] for name in wanted])


def _same_storages(a: Layout, b: Layout) -> bool:
  """Whether all tables and their states are kept alike."""

  def storages(layout: Layout) -> dict[str, tuple[Storage, Storage]]:
    stacks = {t: layout.stacks[b[0].stack] for t, b in layout.blocks.items()}
    return {table: (s.storage, s.state) for table, s in stacks.items()}

  return storages(a) == storages(b)


def _other_shapes(
  family: str, stacks: _Family, arrays: Mapping[str, StoredArray]
) -> bool:
  """Whether stored arrays of a family are packed in another way."""
  return any(
    arrays[f'{family}.{name}'].shape != like.shape
    for name, like in leaves(stacks).items()
  )
