"""Starts a state from the checkpoint of another run, by names.

What both have under one name and in one shape is taken: parameters and
statistics of layers, and the values of tables. Layers of an encoding go with
its table. States of optimizers begin anew.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.checkpoint.fits import TABLES, leaves, size_of_table
from dlrm_jax.checkpoint.moving import move
from dlrm_jax.checkpoint.stored import Stored, families_of, read_arrays
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.training.state import TrainState

_OF_LAYERS = ('params.', 'statistics.')
_OF_ENCODING = re.compile(r'params\.(.+)_(?:projection|path_\d+)\.')
_ABSENT, _OTHER = 'absent there', 'of another shape there'


class Taken(NamedTuple):
  """What a state got from a checkpoint.

  Attributes:
    folder: the checkpoint.
    layers: names of arrays of layers that were taken.
    tables: names of tables that were taken.
    left: names of layers and tables of the state that were not, by reason.
  """

  folder: Path
  layers: list[str]
  tables: list[str]
  left: dict[str, list[str]]

  def __str__(self) -> str:
    head = (
      f'started from {self.folder}: {len(self.layers)} arrays of layers; '
      f'tables: {", ".join(self.tables) or "none"}'
    )
    left = (
      f'  not taken: {", ".join(names)}: {reason}'
      for reason, names in self.left.items()
    )
    return '\n'.join([head, *left])


def _shared(layout: Layout, tables: list[str]) -> Layout:
  """The layout with only some of its tables; its stacks stay as they are."""
  return dataclasses.replace(
    layout,
    rows={name: layout.rows[name] for name in tables},
    blocks={name: layout.blocks[name] for name in tables},
  )


def _table_misfit(name: str, there: Layout, layout: Layout) -> str:
  """Why the sizes of a table forbid to take it; empty where they do not."""
  size = size_of_table(there, name)
  if size is None:
    return _ABSENT
  return '' if size == size_of_table(layout, name) else _OTHER


def _layer_misfit(
  name: str, like: Any, stored: Stored, tables: Mapping[str, str]
) -> str:
  """Why an array of a layer is not taken; empty where it is."""
  if name not in stored.arrays:
    return _ABSENT
  there = stored.arrays[name]
  if there.shape != like.shape:
    return _OTHER
  if np.dtype(there.dtype) != like.dtype:
    return f'{np.dtype(there.dtype)} there'
  found = _OF_ENCODING.match(name)
  return tables.get(found[1], '') if found else ''


def take(
  stored: Stored,
  state: TrainState,
  layout: Layout,
  misfits: Mapping[str, str],
) -> tuple[TrainState, Taken]:
  """The state with what a checkpoint has under the same names.

  Args:
    stored: the checkpoint, of any layout and model.
    state: a new state.
    layout: layout of its tables.
    misfits: why tables of the checkpoint are not to be taken, though they may
      have the right size, by name of the table.

  Raises:
    Damaged: something differs from what was written.
    OSError, StoreError: something cannot be read.
  """
  mine, there = leaves(state), stored.layout
  of_tables = {
    name: _table_misfit(name, there, layout) or misfits.get(name, '')
    for name in layout.rows
  }
  of_layers = {
    name: _layer_misfit(name, like, stored, of_tables)
    for name, like in mine.items()
    if name.startswith(_OF_LAYERS)
  }
  layers = [name for name, why in of_layers.items() if not why]
  tables = [name for name, why in of_tables.items() if not why]
  new = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    for name, x in mine.items()
  }
  got = read_arrays(stored.arrays, {name: new[name] for name in layers})
  if tables:
    moved = move(
      families_of(stored.arrays, there)[TABLES],
      _shared(there, tables),
      families_of(new, layout)[TABLES],
      _shared(layout, tables),
      start=state.tables,
    )
    got |= leaves({TABLES: moved})
  _, structure = jax.tree.flatten(state)
  arrays = [got.get(name, x) for name, x in mine.items()]
  left: dict[str, list[str]] = {}
  for name, why in (of_layers | of_tables).items():
    if why:
      left.setdefault(why, []).append(name.removeprefix('params.model.'))
  return (
    jax.tree.unflatten(structure, arrays),
    Taken(stored.folder, layers, tables, left),
  )
