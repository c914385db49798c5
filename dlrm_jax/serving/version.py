"""A version of a model that is served: loaded, compiled, with its engine."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlrm_jax.errors import InputError
from dlrm_jax.scoring.export_folder import MODEL
from dlrm_jax.scoring.load import load, mark_of
from dlrm_jax.scoring.model import Card, Model
from dlrm_jax.serving.coding import Coding
from dlrm_jax.serving.columns import Column, columns_of
from dlrm_jax.serving.engine import Engine
from dlrm_jax.serving.interface import Interface
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.program import Program
from dlrm_jax.serving.statistics import Statistics
from dlrm_jax.serving.waiting import Batch, Limits
from dlrm_jax.text import duration, human

_SETTINGS = 'config.json'  # of a workdir


class Version(NamedTuple):
  """A version that is served.

  Attributes:
    model: name of the model.
    number: number of the version, as text.
    card: what is known of it.
    interface: its inputs and outputs.
    program: its compiled function.
    engine: scores its requests.
    statistics: what it counted.
    columns: the columns of its log, with an example.
    needed: names of the columns that must not be missing.
    mark: changes with the content of its folder.
    seconds: that loading and compiling took.
  """

  model: str
  number: str
  card: Card
  interface: Interface
  program: Program
  engine: Engine
  statistics: Statistics
  columns: Sequence[Column]
  needed: frozenset[str]
  mark: str
  seconds: float

  def describe(self) -> str:
    """A line about the version."""
    loaded, card = self.program.loaded, self.card
    size = sum(x.nbytes for x in jax.tree.leaves(loaded.tables))
    sizes = ' '.join(map(str, self.program.sizes))
    devices, engine = loaded.mesh.size, self.program.engine
    by = f'layers of {engine}; ' if engine else ''
    return (
      f'{self.model} {self.number}: {card.folder}, {card.name}, step '
      f'{card.step:,}; {len(loaded.network.collection.tables)} tables of '
      f'{human(size)} on {devices} device{"s" * (devices > 1)}; '
      f'{by}compiled for {sizes} rows; {duration(self.seconds)}'
    )


def versions_in(folder: Path) -> dict[int | None, Path]:
  """The folders of a model's versions by number, the least first.

  None is the number of a folder that is a workdir or an export itself.

  Raises:
    InputError: the folder is not there.
  """
  if (folder / MODEL).exists() or (folder / _SETTINGS).exists():
    return {None: folder}
  try:
    names = [path.name for path in folder.iterdir() if path.is_dir()]
  except OSError as error:
    raise InputError(f'{folder}: cannot be read: {error.strerror}') from None
  numbers = sorted(int(n) for n in names if n.isascii() and n.isdigit())
  found: dict[int | None, Path] = {n: folder / str(n) for n in numbers if n}
  found = {n: path for n, path in found.items() if path.is_dir()}
  return found or {None: folder}


def open_version(
  name: str,
  number: str,
  folder: Path,
  limits: Limits,
  deliver: Callable[[Statistics, Batch], object],
  log: Log,
) -> Version:
  """Loads a version and compiles it for all sizes of batches.

  Args:
    name: name of the model.
    number: number of the version.
    folder: a workdir or an export.
    limits: limits of its engine.
    deliver: gets its statistics and each of its batches, in its thread.
    log: where events are written.

  Raises:
    InputError: there is no model, or it is damaged.
  """
  mark, start = mark_of(folder), time.monotonic()
  model: Model = load(folder)
  intake = model.intake
  interface = Interface(
    model.card.schema,
    intake.schema,
    intake.weighted,
    model.card.means,
  )
  coding = Coding(intake, interface)
  program = Program(model.network, limits.max_batch, weighted=intake.weighted)
  for size in program.sizes:
    program.compile(size)
    log('compiled', model=name, version=number, rows=size)
  program.cuts(limits.max_batch)  # from here on, threads only read them
  statistics = Statistics(coding.unknown)
  engine = Engine(
    program, coding, limits, lambda batch: deliver(statistics, batch)
  )
  return Version(
    *(name, number, model.card, interface, program, engine, statistics),
    *(columns_of(intake), coding.needed, mark, time.monotonic() - start),
  )


def about(version: Version) -> dict[str, Any]:
  """What the log says of a version."""
  return {
    'model': version.model,
    'version': version.number,
    'folder': version.card.folder,
    'step': version.card.step,
  }
