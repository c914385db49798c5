"""A stored state against the state wanted: does it fit, and its way over.

Leaves go by their paths, such as `params/model/top/dense_0/kernel`. Those of
`tables` and of the tables' optimizer whose last name is a stack's have rows;
the path before it names a family that `moving` moves from layout to layout.
Everything else is equal in every layout.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts
from tqdm import tqdm

from dlrm_jax.embedding.layout import Layout
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree
from dlrm_jax.training.moving import move, on_devices, rows_to_move
from dlrm_jax.training.state import TrainState

_WITH_ROWS = ('tables', 'table_state')
_CACHE = 16 * 2**20  # bytes of decoded chunks
_SHORT = 3  # seconds; a move that takes less shows no bar
_ADVICE = {
  'absent': (
    "tables are the data set's sparse columns, and those that "
    'config.tables.features shares'
  ),
  'rows': (
    "rows are the data set's vocabulary (prepare --min_count, --hash_rows), "
    'or config.tables.encoding and config.tables.rows'
  ),
  'width': 'the width is config.model.dim',
}


class Stored(NamedTuple):
  """A checkpoint.

  Attributes:
    folder: of its state.
    leaves: what Orbax knows of each array, by path.
    layout: of its tables.
  """

  folder: Path
  leaves: Mapping[str, Any]
  layout: Layout


def leaves(tree: Pytree) -> dict[str, Any]:
  """Arrays of a tree, or what stands for them, by path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if hasattr(x, 'shape')
  }


def _family(path: str, layout: Layout) -> tuple[str, str] | None:
  """Family and stack of a leaf with rows."""
  prefix, _, last = path.rpartition('/')
  if prefix.split('/')[0] in _WITH_ROWS and last in layout.stacks:
    return prefix, last
  return None


def _size(layout: Layout, table: str) -> tuple[int, int] | None:
  if table not in layout.rows:
    return None
  return layout.rows[table], sum(b.dim for b in layout.blocks[table])


def _check_tables(here: Path, then: Layout, now: Layout) -> None:
  for table in sorted(then.rows.keys() | now.rows.keys()):
    sizes = _size(then, table), _size(now, table)
    if sizes[0] == sizes[1]:
      continue
    known = [size for size in sizes if size]
    names = ['absent']
    if len(known) == 2:
      (rows, width), (other_rows, other_width) = known
      differ = {'rows': rows != other_rows, 'width': width != other_width}
      names = [name for name, differs in differ.items() if differs]
    there, wanted = (
      f'{size[0]:,} x {size[1]}' if size else 'absent' for size in sizes
    )
    raise InputError(
      f'{here}: table {table} (rows x width) is {there} in the checkpoint and '
      f'{wanted} by the config and its data; '
      f'{"; ".join(_ADVICE[name] for name in names)}'
    )


def _described(
  found: Mapping[str, Any], layout: Layout, tops: set[str]
) -> Iterator[tuple[str, str]]:
  """Paths with shapes, and families, whatever their layout."""
  for path, x in found.items():
    if path.split('/')[0] not in tops:
      continue
    family = _family(path, layout)
    if family is None:
      yield path, str(tuple(x.shape))
    else:
      kind = 'a number' if len(x.shape) == 1 else 'a vector'
      yield family[0], f'{kind} for each row'


def check_fits(stored: Stored, abstract: TrainState, layout: Layout) -> None:
  """Raises `InputError` where a checkpoint is of other tables or layers."""
  here = stored.folder.parent
  _check_tables(here, stored.layout, layout)
  asked = leaves(abstract)
  tops = {name for name, value in vars(abstract).items() if value is not None}
  there = dict(_described(stored.leaves, stored.layout, tops))
  wanted = dict(_described(asked, layout, tops))
  for path in sorted(there.keys() | wanted.keys()):
    if there.get(path) != wanted.get(path):
      raise InputError(
        f'{here}: {path} is {there.get(path, "absent")} in the checkpoint and '
        f'{wanted.get(path, "absent")} by the config and its data; use the '
        f'config and the prepared data that it was trained with'
      )


def _open(stored: Stored, path: str, context: ts.Context) -> ts.TensorStore:
  """An array of a checkpoint, of which any part can be read."""
  name = stored.leaves[path].name
  base = {'driver': 'file', 'path': f'{stored.folder.absolute()}/'}
  spec = {
    'driver': 'zarr',
    'kvstore': {'driver': 'ocdbt', 'base': base, 'path': f'{name}/'},
    'fill_missing_data_reads': False,
  }
  return ts.open(spec, context=context, read=True).result()


def _copied(array: ts.TensorStore, like: jax.ShapeDtypeStruct) -> jax.Array:
  values = array.read().result()
  return on_devices(like, lambda index: np.asarray(values[index]))


def restore_moved(
  stored: Stored, abstract: TrainState, layout: Layout
) -> TrainState:
  """Reads a checkpoint of another layout.

  Every process reads what has rows of its part, in pieces.

  Args:
    stored: the checkpoint; it fits.
    abstract: shapes, dtypes and shardings wanted.
    layout: of the tables wanted.
  """
  context = ts.Context({'cache_pool': {'total_bytes_limit': _CACHE}})
  families: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
  made: dict[str, jax.Array] = {}
  for path, like in leaves(abstract).items():
    family = _family(path, layout)
    if family is None:
      made[path] = _copied(_open(stored, path, context), like)
    else:
      families.setdefault(family[0], {})[family[1]] = like
  with tqdm(
    desc='moving tables',
    total=len(families) * rows_to_move(stored.layout, layout),
    unit=' rows',
    unit_scale=True,
    delay=_SHORT,
    mininterval=0.1 if sys.stderr.isatty() else 5,
    disable=jax.process_index() > 0,
  ) as bar:
    for prefix, wanted in families.items():
      arrays = {
        stack: _open(stored, f'{prefix}/{stack}', context)
        for stack in stored.layout.stacks
      }
      moved = move(arrays, stored.layout, wanted, layout, bar.update)
      made |= {f'{prefix}/{stack}': x for stack, x in moved.items()}
  _, structure = jax.tree.flatten(abstract)
  return jax.tree.unflatten(structure, [made[p] for p in leaves(abstract)])
