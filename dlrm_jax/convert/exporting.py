"""Writes a checkpoint of a workdir as a file of another program.

Rows are read from the checkpoint in pieces, each compared with its checksum,
and put into arrays in files, from which PyTorch writes them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax import files
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.converted import learning_rate
from dlrm_jax.checkpoint.damage import explain_read_errors
from dlrm_jax.checkpoint.fits import TABLES, check_fits
from dlrm_jax.checkpoint.moving import move_into
from dlrm_jax.checkpoint.stored import Stored, families_of, read_metrics
from dlrm_jax.convert.pieces import apart
from dlrm_jax.convert.program import Match, Program, Setting
from dlrm_jax.convert.scratch import Scratch
from dlrm_jax.convert.slots import SUMS, sides
from dlrm_jax.convert.torch_files import tensor_of, write_file, write_folder
from dlrm_jax.embedding.collection import EmbeddingCollection
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
  if output.exists():
    raise InputError(f'--output={output}: is there already; choose another one')
  _, run, step, saved = choose(folder, checkpoint, defaults)
  network, layout = run.task.network, run.task.collection.layout
  if misfit := program.misfit(network):
    raise InputError(
      f'{folder}: {program.title} has no such model: config.{misfit}'
    )
  stored = saved.open(step)
  matches = program.matches(network)
  layers, tables = (side.name for side in sides(run.config))
  states = {m.name: program.slot(m, layers, tables, as_folder) for m in matches}
  with files.beside(output) as work:
    with explain_read_errors(stored.folder, []):
      abstract = abstract_state(run.task)
      check_fits(stored.folder, stored.layout, stored.arrays, abstract, layout)
      read = _Reader(stored, run.task.collection, Scratch(work))
      tensors = {m.name: tensor_of(read.value(m)) for m in matches}
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
  for side in sides(run.config):
    mine = [m.name for m in matches if m.is_table == side.of_tables]
    if any(name in slots for name in mine):
      yield f'optimizer of {side.what}: {side.kept} written'
    elif side.kept:
      yield (
        f'optimizer of {side.what}: its state is not written, as '
        f'{program.why_no_slot}'
      )
  yield f'made for: {program.advice(network)}'


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
    new = apart(self.collection.tables)
    old = self.stored.layout
    if family != TABLES:
      old = old.of_state
    move_into(self._family(family), old, {match.ours: array}, new)
    return array
