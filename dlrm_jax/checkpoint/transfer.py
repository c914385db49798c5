"""Starts a state from the checkpoint of another run, by names.

What both have under one name and in one shape is taken: parameters and
statistics of layers, and the values of tables. States of optimizers begin anew.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax

from dlrm_jax.checkpoint.fits import TABLES, leaves, size_of_table
from dlrm_jax.checkpoint.moving import move
from dlrm_jax.checkpoint.stored import Stored, families_of, read_arrays
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.training.state import TrainState

_OF_LAYERS = ('params.', 'statistics.')


class Taken(NamedTuple):
  """What a state got from a checkpoint.

  Attributes:
    folder: the checkpoint.
    layers: names of arrays of layers that were taken.
    tables: names of tables that were taken.
    left: names of layers and tables of the state that were not.
  """

  folder: Path
  layers: list[str]
  tables: list[str]
  left: list[str]

  def __str__(self) -> str:
    tables = ', '.join(self.tables) or 'none'
    left = ', '.join(self.left) or 'nothing'
    return (
      f'started from {self.folder}: {len(self.layers)} arrays of layers; '
      f'tables: {tables}; not found there: {left}'
    )


def _shared(layout: Layout, tables: list[str]) -> Layout:
  """The layout with only some of its tables; its stacks stay as they are."""
  return dataclasses.replace(
    layout,
    rows={name: layout.rows[name] for name in tables},
    blocks={name: layout.blocks[name] for name in tables},
  )


def take(
  stored: Stored, state: TrainState, layout: Layout, with_tables: bool
) -> tuple[TrainState, Taken]:
  """The state with what a checkpoint has under the same names.

  Args:
    stored: the checkpoint, of any layout and model.
    state: a new state.
    layout: layout of its tables.
    with_tables: whether tables are taken, too; their rows must belong to the
      same ids.

  Raises:
    Damaged: something differs from what was written.
    OSError, StoreError: something cannot be read.
  """
  mine, there = leaves(state), stored.layout
  layers = [name for name in mine if name.startswith(_OF_LAYERS)]
  taken = [
    name
    for name in layers
    if name in stored.arrays and stored.arrays[name].shape == mine[name].shape
  ]
  tables = [
    name
    for name in layout.rows
    if with_tables and size_of_table(there, name) == size_of_table(layout, name)
  ]
  new = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    for name, x in mine.items()
  }
  got = read_arrays(stored.arrays, {name: new[name] for name in taken})
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
  left = [name for name in layers if name not in taken]
  left += [name for name in layout.rows if name not in tables]
  named = [name.removeprefix('params.model.') for name in left]
  return (
    jax.tree.unflatten(structure, arrays),
    Taken(stored.folder, taken, tables, named),
  )
