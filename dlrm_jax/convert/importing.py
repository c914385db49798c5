"""Makes a workdir of a file of another program.

The tables of the file are a layout of their own, of which rows are moved to
ours in pieces, as from any checkpoint. The new stacks are arrays in files, so
a table is never twice in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dlrm_jax import files
from dlrm_jax.build.converted import (
  check_own_start,
  lacks_sizes,
  names_data,
  with_sizes,
)
from dlrm_jax.build.data import identity, open_data, open_schema
from dlrm_jax.build.network import check_trains
from dlrm_jax.build.objective import build_objective
from dlrm_jax.build.run import settled
from dlrm_jax.build.task import build_task
from dlrm_jax.build.written import write_workdir
from dlrm_jax.checkpoint.fits import TABLES, leaves
from dlrm_jax.checkpoint.moving import move_into
from dlrm_jax.checkpoint.stored import families_of
from dlrm_jax.convert.fitting import check_fits
from dlrm_jax.convert.packed import PackedTable
from dlrm_jax.convert.pieces import apart
from dlrm_jax.convert.program import Array, Found, Match, Program
from dlrm_jax.convert.scratch import Scratch
from dlrm_jax.convert.slots import SUMS, carried, sides
from dlrm_jax.convert.storages import columns_misfit, config_as_in, said
from dlrm_jax.convert.torch_files import read_file
from dlrm_jax.convert.torch_folders import read_folder
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.storage import Storage
from dlrm_jax.errors import InputError
from dlrm_jax.run import workdir
from dlrm_jax.training.state import Task, TrainState, abstract_state


class Target(NamedTuple):
  """The run that a file becomes.

  Attributes:
    config: its settings.
    data: the identity of its data.
    schema: the columns.
    task: what is trained.
  """

  config: ConfigDict
  data: Mapping[str, Any]
  schema: Schema
  task: Task


def _target(
  config: ConfigDict, found: Found, program: Program
) -> tuple[Target, Found]:
  """The run, and the file, of which it is clear how tables are kept.

  Without data the columns have the sizes that the file has. Tables that are
  quantised in the file are kept so.
  """
  if lacks_sizes(config):
    sizes = program.sizes(_shapes(found))
    if not sizes.rows:
      raise InputError(f'{found.path}: has no tables')
    config = with_sizes(config, sizes.rows, sizes.dense)
  schema, scale = open_schema(config)
  columns = [column.name for column in schema.sparse]
  found, config = config_as_in(found, settled(config), columns)
  if names_data(config):
    data = identity(open_data(config))
  else:
    none = f'none: from {found.path.name} of {program.title}'
    data = {
      'fingerprint': none,
      'ids': none,
      'scale': scale._asdict(),
      **schema.to_json(),
    }
  task = build_task(config, schema, scale)
  return Target(config, data, schema, task), found


def _shapes(found: Found) -> dict[str, tuple[int, ...]]:
  return {name: x.shape for name, x in found.tensors.items()}


def check_new(config: ConfigDict, folder: Path, source: str) -> None:
  """Raises an error where no workdir can be made.

  Args:
    config: all settings of the run.
    folder: the workdir.
    source: the flag that names what the first state is made of.

  Raises:
    InputError: the workdir exists or cannot be made, or the run is to start
      from other runs, or cannot be trained.
  """
  files.check_new(folder, f'--workdir={folder}')
  check_own_start(config, source)
  check_trains(config)


def import_model(
  program: Program,
  source: Path,
  config: ConfigDict,
  folder: Path,
  defaults: Mapping[str, Any],
) -> Iterator[str]:
  """Makes a workdir; it appears whole, or not at all.

  Args:
    program: the program that wrote the file.
    source: the file or folder.
    config: all settings of the run.
    folder: the workdir.
    defaults: default of every field.

  Yields:
    Lines that say what was done.

  Raises:
    InputError: the file is none of the program, does not fit the config, or
      something cannot be read or written.
  """
  check_new(config, folder, f'--input={source}')
  with files.beside(folder) as work:
    scratch = Scratch(work)
    if source.is_dir() and program.folders:
      content: Any = read_folder(source, scratch)
    else:
      content = read_file(source)
    target, found = _target(config, program.find(content, source), program)
    network = target.task.network
    misfit = program.misfit(network)
    if not misfit and _packed(found):
      misfit = columns_misfit(network)
    if misfit:
      raise InputError(
        f'config.{misfit}: {program.title} has no such model, and the file is '
        f'of one that it has'
      )
    matches = program.matches(network)
    sizes = program.sizes(_shapes(found))
    check_fits(found, matches, sizes, names_data(config))
    states: dict[str, Array] = {}
    lines = []
    for side in sides(target.config):
      of_side = carried(side, found, matches)
      states |= of_side.states
      lines.append(of_side.line)
    state = _state(target.task, found, matches, states, scratch)
    write_target(work / 'workdir', target, state, defaults)
    files.publish(work / 'workdir', folder.absolute())
  tables = sum(match.is_table for match in matches)
  yield (
    f'{folder}: {tables} tables and {len(matches) - tables} arrays of layers '
    f'from {source}, as the checkpoint of step 0'
  )
  yield from lines
  yield from _notes(found, target, matches)


def _packed(found: Found) -> dict[str, PackedTable]:
  """The quantised tables of a file, by name."""
  tensors = found.tensors.items()
  return {name: x for name, x in tensors if isinstance(x, PackedTable)}


def _notes(
  found: Found, target: Target, matches: Sequence[Match]
) -> Iterator[str]:
  """Lines about what a user may not expect."""
  packed = _packed(found)
  if packed:
    kept = {m.feature: packed[m.name].kind for m in matches if m.name in packed}
    yield f'tables keep the values that they have there: {said(kept)}'
  others = (x for name, x in found.tensors.items() if name not in packed)
  kinds = {x.kind for x in others} - {'float32'}
  if kinds:
    yield f'tensors in {" and ".join(sorted(kinds))} are float32 from now on'
  if not names_data(target.config):
    columns = [column.name for column in target.schema.sparse]
    yield (
      f'no set was named, so the columns are {columns[0]} to {columns[-1]}; to '
      f'train or evaluate, convert with --config.data.dir=SET'
    )


def write_target(
  folder: Path,
  target: Target,
  state: TrainState,
  defaults: Mapping[str, Any],
) -> None:
  """Writes the workdir of a run, with the checkpoint of step 0."""
  write_workdir(
    folder,
    workdir.Claim(target.config.to_dict(), target.data, 0, defaults),
    build_objective(target.config, target.schema),
    target.task.collection.layout,
    state,
  )


def _first(task: Task, params: Any) -> dict[str, jax.Array]:
  """The arrays of a first state by name; of those with rows the first row.

  An optimizer treats rows separately, so all of them start alike.
  """
  stacks = task.collection.layout.stacks.items()
  rows = {name: jnp.zeros((1, stack.dim)) for name, stack in stacks}
  return leaves(
    TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=task.tx.init(params),
      tables=rows,
      table_state=task.table_tx.init(rows),
      statistics={},
      factor=None if task.plateau is None else jnp.ones(()),
    )
  )


class _Family(NamedTuple):
  """Arrays with rows of a file.

  Attributes:
    tables: by name of our table its rows, as a storage keeps them.
    storages: the storages of tables that are not float32 there.
    layout: where they go.
  """

  tables: Mapping[str, Any]
  storages: Mapping[str, Storage]
  layout: Layout


def _kept(table: Array) -> Any:
  """The rows of a table as they are kept in a file."""
  return table.kept if isinstance(table, PackedTable) else table


def _state(
  task: Task,
  found: Found,
  matches: Sequence[Match],
  states: Mapping[str, Array],
  scratch: Scratch,
) -> TrainState:
  """The state with the layers, tables and states of optimizers of a file.

  Args:
    task: what is trained.
    found: the file.
    matches: its tensors, which fit.
    states: states of optimizers, by name of our table or array of a layer.
    scratch: makes the arrays of stacks.
  """
  layout = task.collection.layout
  abstract = abstract_state(task)
  layers = {m.ours: m for m in matches if not m.is_table}
  tables = {m.ours: found.tensors[m.name] for m in matches if m.is_table}
  _, structure = jax.tree.flatten(abstract.params)
  params = jax.tree.unflatten(
    structure,
    [
      jnp.asarray(layers[name].to_ours(found.tensors[layers[name].name][:]))
      for name in leaves(abstract.params)
    ],
  )
  small = _first(task, params)
  families: dict[str, _Family] = {
    TABLES: _Family(
      {name: _kept(x) for name, x in tables.items()},
      {n: x.storage for n, x in tables.items() if isinstance(x, PackedTable)},
      layout,
    )
  }
  if states.keys() & tables.keys():
    sums = {name: states[name] for name in tables}
    families[SUMS] = _Family(sums, {}, layout.of_state)
  made: dict[str, jax.Array] = {}
  wanted = leaves(abstract)
  for path, stacks in families_of(wanted, layout).items():
    source = families.get(path.rpartition('.')[2])
    kept = layout if path == TABLES else layout.of_state
    for name, like in stacks.items():
      arrays = jax.tree.map(lambda x: scratch.array(x.shape, x.dtype), like)
      if source is not None:
        old = apart(task.collection.tables, source.storages)
        move_into(source.tables, old, {name: arrays}, source.layout)
      elif np.any(first := small[f'{path}.{name}']):
        encoded = kept.stacks[name].storage.encode(first, None)
        arrays[...] = np.asarray(encoded).flat[0]
      arrays = jax.device_put(arrays, jax.devices('cpu')[0], may_alias=True)
      made |= leaves({path: {name: arrays}})
  for name in wanted.keys() - made.keys():
    ours = name.partition(f'.{SUMS}.')[2]
    if name.startswith('opt_state.') and ours in states:
      made[name] = jnp.asarray(layers[ours].to_ours(states[ours][:]))
    else:
      made[name] = small[name]
  _, structure = jax.tree.flatten(abstract)
  return jax.tree.unflatten(structure, [made[name] for name in wanted])
