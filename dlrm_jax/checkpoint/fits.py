"""Whether a checkpoint fits the state that is wanted: tables, shapes, dtypes.

Arrays go by the names that Orbax gives them, `params.model.top.dense_0.kernel`.
Those of `tables` and of the tables' optimizer whose last name is a stack's
have rows; the name before it is that of a family, which `moving` takes from
layout to layout. Everything else is equal in every layout.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlrm_jax.embedding.layout import Layout
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree
from dlrm_jax.training.state import TrainState

_WITH_ROWS = ('tables', 'table_state')
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


def leaves(tree: Pytree) -> dict[str, Any]:
  """Arrays of a tree, or what stands for them, by the names of Orbax."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if hasattr(x, 'shape')
  }


def family_of(name: str, layout: Layout) -> tuple[str, str] | None:
  """Family and stack of an array with rows."""
  family, _, last = name.rpartition('.')
  if family.split('.')[0] in _WITH_ROWS and last in layout.stacks:
    return family, last
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
  found: Mapping[str, Any], layout: Layout, fields: set[str]
) -> Iterator[tuple[str, str]]:
  """Names with dtypes and shapes; families, whatever their layout."""
  for name, x in found.items():
    if name.split('.')[0] not in fields:
      continue
    family, dtype = family_of(name, layout), np.dtype(x.dtype)
    if family is None:
      yield name, f'{dtype}{tuple(x.shape)}'
    else:
      kind = 'a number' if len(x.shape) == 1 else 'a vector'
      yield family[0], f'{kind} of {dtype} for each row'


def check_fits(
  here: Path,
  then: Layout,
  arrays: Mapping[str, Any],
  abstract: TrainState,
  layout: Layout,
) -> None:
  """Raises `InputError` where a checkpoint is of other tables or layers.

  Args:
    here: the checkpoint, for the message.
    then: layout of its tables.
    arrays: what it has, with shapes and dtypes, by name.
    abstract: the state wanted; a field that is None is not looked at.
    layout: of the tables wanted.
  """
  _check_tables(here, then, layout)
  fields = {name for name, value in vars(abstract).items() if value is not None}
  there = dict(_described(arrays, then, fields))
  wanted = dict(_described(leaves(abstract), layout, fields))
  for name in sorted(there.keys() | wanted.keys()):
    if there.get(name) != wanted.get(name):
      raise InputError(
        f'{here}: {name.replace(".", "/")} is {there.get(name, "absent")} in '
        f'the checkpoint and {wanted.get(name, "absent")} by the config and '
        f'its data; use the config and the prepared data that it was trained '
        f'with'
      )
