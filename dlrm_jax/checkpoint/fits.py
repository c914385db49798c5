"""Whether a checkpoint fits the state that is wanted: tables, shapes, dtypes.

Arrays have the names that Orbax gives them, `params.model.top.dense_0.kernel`.
Arrays of `tables` and of the tables' optimizer with a stack's name in them
have rows: `tables.rows_16`, or `tables.rows_16_int8.codes` where a storage
keeps several arrays. The names before the stack's are those of a *family*,
which `moving` takes from layout to layout. Everything else is equal in every
layout.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.embedding.layout import Layout
from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree
from dlrm_jax.training.state import TrainState

TABLES = 'tables'
"""The family of the tables' values, which their storages keep."""

_STATES = ('opt_state', 'table_state')
_WITH_ROWS = (TABLES, 'table_state')
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


class RowsName(NamedTuple):
  """The name of an array with rows, in parts.

  Attributes:
    family: names before the stack's, such as 'tables'.
    stack: name of the stack.
    array: name of one of the arrays of the stack's storage; empty where there
      is one array.
  """

  family: str
  stack: str
  array: str


def leaves(tree: Pytree) -> dict[str, Any]:
  """Arrays of a tree, or their shapes, by the names that Orbax gives them."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if hasattr(x, 'shape')
  }


def rows_name(name: str, layout: Layout) -> RowsName | None:
  """The parts of the name of an array with rows; None for other arrays."""
  parts = name.split('.')
  if parts[0] not in _WITH_ROWS:
    return None
  for k in (-1, -2):
    if len(parts) > -k and parts[k] in layout.stacks:
      after = parts[len(parts) + k + 1 :]
      return RowsName('.'.join(parts[:k]), parts[k], '.'.join(after))
  return None


def size_of_table(layout: Layout, table: str) -> tuple[int, int] | None:
  """Rows and width of a table; None where it is absent."""
  if table not in layout.rows:
    return None
  return layout.rows[table], sum(b.dim for b in layout.blocks[table])


def _check_tables(folder: Path, then: Layout, now: Layout) -> None:
  for table in sorted(then.rows.keys() | now.rows.keys()):
    saved, wanted = size_of_table(then, table), size_of_table(now, table)
    if saved == wanted:
      continue
    names = ['absent']
    if saved and wanted:
      differ = zip(('rows', 'width'), saved, wanted, strict=True)
      names = [name for name, a, b in differ if a != b]
    described = [
      f'{size[0]:,} x {size[1]}' if size else 'absent'
      for size in (saved, wanted)
    ]
    raise InputError(
      f'{folder}: table {table} (rows x width) is {described[0]} in the '
      f'checkpoint and {described[1]} by the config and its data; '
      f'{"; ".join(_ADVICE[name] for name in names)}'
    )


def _described(
  arrays: Mapping[str, Any], layout: Layout, fields: set[str]
) -> Iterator[tuple[str, str]]:
  """Names of arrays with dtypes and shapes; of families what a row has.

  How rows are kept may differ.
  """
  for name, x in arrays.items():
    if name.split('.')[0] not in fields - {TABLES}:
      continue
    with_rows = rows_name(name, layout)
    if with_rows is None:
      yield name, f'{np.dtype(x.dtype)}{tuple(x.shape)}'
    else:
      kind = 'a number' if len(x.shape) == 1 else 'a vector'
      yield with_rows.family, f'{kind} for each row'


def _check_kept(
  folder: Path, arrays: Mapping[str, Any], layout: Layout
) -> None:
  """Checks that arrays with rows are those of their storages."""
  for name, x in arrays.items():
    parts = rows_name(name, layout)
    if parts is None:
      continue
    stack = layout.stacks[parts.stack]
    storage = stack.storage if parts.family == TABLES else stack.state
    kept = leaves({parts.family: {parts.stack: storage.leaves(stack.dim)}})
    expected = kept[name].dtype if name in kept else 'no such array'
    if np.dtype(x.dtype) != expected:
      raise InputError(
        f'{folder}: {name.replace(".", "/")} is {np.dtype(x.dtype)}; expected '
        f'{expected}, as the layout in the checkpoint says; it was written by '
        f'another program, or changed'
      )


def has_states(names: Iterable[str]) -> bool:
  """Whether names of arrays are of states of optimizers, among others."""
  return any(name.split('.')[0] in _STATES for name in names)


def check_fits(
  folder: Path,
  then: Layout,
  arrays: Mapping[str, Any],
  abstract: TrainState,
  layout: Layout,
) -> None:
  """Compares a checkpoint with the state that is wanted.

  Args:
    folder: folder of the checkpoint, for the message.
    then: layout of its tables.
    arrays: its arrays by name, with shapes and dtypes.
    abstract: the state wanted; fields that are None are ignored.
    layout: layout of the tables wanted.

  Raises:
    InputError: the checkpoint has other tables or layers.
  """
  _check_tables(folder, then, layout)
  _check_kept(folder, arrays, then)
  fields = {name for name, value in vars(abstract).items() if value is not None}
  saved = dict(_described(arrays, then, fields))
  wanted = dict(_described(leaves(abstract), layout, fields))
  if has_states(wanted) and not has_states(saved):
    raise InputError(
      f'{folder}: has no states of optimizers, as python -m dlrm_jax.quantize '
      f'writes it: it is for scoring; a new run can begin with its layers and '
      f'tables (config.train.init_from)'
    )
  for name in sorted(saved.keys() | wanted.keys()):
    if saved.get(name) != wanted.get(name):
      raise InputError(
        f'{folder}: {name.replace(".", "/")} is {saved.get(name, "absent")} in '
        f'the checkpoint and {wanted.get(name, "absent")} by the config and '
        f'its data; use the config and the prepared data that it was trained '
        f'with'
      )
