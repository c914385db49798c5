"""Writes a checkpoint of a workdir as a file of another program.

Rows are read from the checkpoint in pieces, each compared with its checksum,
and put into arrays in files, from which PyTorch writes them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax import files
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.converted import learning_rate
from dlrm_jax.checkpoint.damage import explain_read_errors
from dlrm_jax.checkpoint.fits import TABLES, check_fits, has_states
from dlrm_jax.checkpoint.moving import move_into
from dlrm_jax.checkpoint.stored import Stored, families_of, read_metrics
from dlrm_jax.convert.packed import (
  QUANTISED,
  Rounding,
  aligned,
  round_lines,
  row_bytes,
  storage_there,
  views,
)
from dlrm_jax.convert.pieces import apart
from dlrm_jax.convert.program import Match, Program, Setting
from dlrm_jax.convert.scratch import Scratch
from dlrm_jax.convert.slots import SUMS, sides
from dlrm_jax.convert.storages import columns_misfit, said
from dlrm_jax.convert.torch_files import tensor_of, write_file, write_folder
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.low_precision import INT8
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.errors import InputError
from dlrm_jax.training.state import abstract_state


def export_model(
  program: Program,
  folder: Path,
  checkpoint: str,
  output: Path,
  defaults: Mapping[str, Any],
) -> Iterator[str]:
  """Writes a checkpoint for another program; the output appears whole.

  Args:
    program: the program.
    folder: the workdir.
    checkpoint: best, latest or a step.
    output: a `.pt` file, or a folder of torch.distributed.checkpoint.
    defaults: default of every field, for configs of earlier versions.

  Yields:
    Lines that say what was done.

  Raises:
    InputError: the program has no such model, or something cannot be read or
      written.
  """
  as_folder = output.suffix != '.pt'
  if as_folder and not program.folders:
    raise InputError(
      f'--output={output}: {program.title} has files only; expected a name '
      f'that ends in .pt'
    )
  files.check_new(output, f'--output={output}')
  _, run, step, saved = choose(folder, checkpoint, defaults)
  network, collection = run.task.network, run.task.collection
  quantised = program.load_quantised is not None and not as_folder
  quantised &= any(table.storage in QUANTISED for table in collection.tables)
  misfit = program.misfit(network)
  if quantised and not misfit:
    misfit = columns_misfit(network)
  if misfit:
    raise InputError(
      f'{folder}: {program.title} has no such model: config.{misfit}'
    )
  stored = saved.open(step)
  matches = program.matches(network)
  layers, tables = (side.name for side in sides(run.config))
  abstract = abstract_state(run.task)
  states = {m.name: program.slot(m, layers, tables, as_folder) for m in matches}
  if scores_only := not has_states(stored.arrays):
    abstract = dataclasses.replace(abstract, opt_state=None, table_state=None)
    states = dict.fromkeys(states, '')
  with files.beside(output) as work:
    with explain_read_errors(stored.folder, []):
      layout = collection.layout
      check_fits(stored.folder, stored.layout, stored.arrays, abstract, layout)
      read = _Reader(stored, collection, Scratch(work))
      packed = {
        m.name: read.packed(m) for m in matches if quantised and m.is_table
      }
      tensors = {
        m.name: tensor_of(
          packed[m.name].rows if m.name in packed else read.value(m)
        )
        for m in matches
      }
      slots = {
        m.name: {states[m.name]: tensor_of(read.sums(m))}
        for m in matches
        if states[m.name]
      }
      accuracy = float(read_metrics(stored.folder).get('accuracy', 0))
    setting = Setting(learning_rate(run.config), step, accuracy)
    made = work / output.name
    write = write_folder if as_folder else write_file
    write(program.content(tensors, slots, setting), made)
    files.publish(made, output.absolute())
  yield (
    f'{output}: {len(tensors)} tensors of {stored.folder} for {program.title}'
  )
  yield from _lines_of_tables(program, collection, matches, packed)
  for side in sides(run.config):
    mine = [m.name for m in matches if m.is_table == side.of_tables]
    if any(name in slots for name in mine):
      yield f'optimizer of {side.what}: {side.kept} written'
    elif side.kept:
      why = 'the checkpoint has none' if scores_only else program.why_no_slot
      yield f'optimizer of {side.what}: its state is not written, as {why}'
  yield f'made for: {program.advice(network)}'


class _Packed(NamedTuple):
  """A quantised table as it is written.

  Attributes:
    rows: u8[R, W].
    storage: how they are kept.
    rounding: what the rounding of scales and biases changed.
  """

  rows: np.ndarray
  storage: Storage
  rounding: Rounding


def _lines_of_tables(
  program: Program,
  collection: EmbeddingCollection,
  matches: Sequence[Match],
  packed: Mapping[str, _Packed],
) -> Iterator[str]:
  """Lines that say how tables are written.

  Args:
    program: the program.
    collection: the tables.
    matches: the tensors of the model.
    packed: those that are quantised.
  """
  if not packed:
    names = {table.storage.name for table in collection.tables} - {FLOAT32.name}
    if names:
      yield f'tables in {" and ".join(sorted(names))} are float32 there'
    return
  of = {m.feature: packed[m.name] for m in matches if m.name in packed}
  kept = {feature: x.storage.name for feature, x in of.items()}
  yield f'quantised tables: {said(kept)}'
  if any(x.storage == INT8 for x in of.values()):
    rows = sum(x.rounding.rows for x in of.values())
    most = max(x.rounding.most for x in of.values())
    changed = f'{rows:,} rows have other values, by at most {most:.2g}'
    yield (
      f'int8: scale and bias are float16 there: '
      f'{changed if rows else "all rows have the same values"}'
    )
  assert program.load_quantised is not None
  call = program.load_quantised({n: x.storage for n, x in packed.items()})
  yield f'load it into: {call}'


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Reads the arrays of a checkpoint as another program has them.

  Attributes:
    stored: the checkpoint.
    collection: the tables.
    scratch: makes the arrays of tables.
  """

  stored: Stored
  collection: EmbeddingCollection
  scratch: Scratch

  def value(self, match: Match) -> np.ndarray:
    """The tensor."""
    if not match.is_table:
      return match.to_theirs(self.stored.arrays[f'params.{match.ours}'][:])
    return self._table(match, TABLES, match.shape)

  def packed(self, match: Match) -> _Packed:
    """A table in rows of bytes."""
    count, dim = match.shape
    (storage,) = (
      storage_there(table.storage)
      for table in self.collection.tables
      if table.name == match.ours
    )
    size = aligned(row_bytes(storage, dim))
    rows = self.scratch.array((count, size), np.uint8)
    kept = views(rows, storage, dim)
    if storage == INT8:
      kept['line'] = self.scratch.array((count, 2), np.float32)
    new = apart(self.collection.tables, {match.ours: storage})
    move_into(self._family(TABLES), self.stored.layout, {match.ours: kept}, new)
    rounding = Rounding(0, 0.0)
    if storage == INT8:
      rounding = round_lines(rows, kept['line'], dim, match.feature)
    return _Packed(rows, storage, rounding)

  def sums(self, match: Match) -> np.ndarray:
    """The sums of squares of the gradients of the tensor, or of its rows."""
    if not match.is_table:
      (array,) = (
        x
        for name, x in self.stored.arrays.items()
        if name.startswith('opt_state.')
        and name.endswith(f'.{SUMS}.{match.ours}')
      )
      return match.to_theirs(array[:])
    by_row = all(len(x.shape) == 1 for x in self._family(SUMS).values())
    return self._table(match, SUMS, match.shape[:1] if by_row else match.shape)

  def _family(self, name: str) -> Mapping[str, Any]:
    """The arrays of stacks in a family, by its last name."""
    families = families_of(self.stored.arrays, self.stored.layout)
    (found,) = (
      stacks
      for family, stacks in families.items()
      if family.rpartition('.')[2] == name
    )
    return found

  def _table(
    self, match: Match, family: str, shape: tuple[int, ...]
  ) -> np.ndarray:
    array = self.scratch.array(shape, np.float32)
    new, old = apart(self.collection.tables), self.stored.layout
    if family != TABLES:
      old = old.of_state
    move_into(self._family(family), old, {match.ours: array}, new)
    return array
