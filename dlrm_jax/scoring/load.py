"""Loads a model from a workdir or an export."""

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from dlrm_jax import sharding
from dlrm_jax.callable_module import path_of
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.export_folder import MODEL
from dlrm_jax.scoring.model import Card, Model

if TYPE_CHECKING:
  from dlrm_jax.scoring.intake import Intake

_OF_RUN = ('config.json', 'data.json', 'checkpoints')


def load(
  folder: str | os.PathLike[str], checkpoint: str | int = 'best'
) -> Model:
  """Loads a model that scores.

  Args:
    folder: the workdir of a run, or a folder that `python -m
      dlrm_jax.export` wrote.
    checkpoint: 'best' (by the objective of the run), 'latest' or a step, of a
      workdir.

  Raises:
    InputError: there is no model, it is damaged, or of a newer version.
  """
  path = path_of('folder', folder)
  if (path / MODEL).exists():
    if checkpoint != 'best':
      raise InputError(
        f'{path} is an export, of one checkpoint; leave '
        f'checkpoint={checkpoint!r} out'
      )
    from dlrm_jax.scoring.exported import load_export

    return load_export(path)
  if not path.is_dir():
    what = 'a file' if path.exists() else 'no such folder'
    raise InputError(f'{path}: {what}; expected a workdir or an export')
  if not any((path / name).exists() for name in _OF_RUN):
    raise InputError(
      f'{path}: neither a workdir, which has {_OF_RUN[0]}, nor an export, '
      f'which has {MODEL}'
    )
  return load_workdir(path, checkpoint)


def mark_of(folder: Path) -> str:
  """A text that changes where a folder gets another model."""

  def of(path: Path) -> tuple[int, ...]:
    try:
      about = path.stat()
    except OSError:
      return ()
    return about.st_ino, about.st_mtime_ns, about.st_size

  return repr([of(folder / name) for name in (MODEL, *_OF_RUN)])


def load_workdir(path: Path, checkpoint: str | int) -> Model:
  """Loads a checkpoint of a run; see `load`."""
  from dlrm_jax.build.chosen import choose
  from dlrm_jax.build.network import sparse_forms
  from dlrm_jax.build.trained import out_of_range
  from dlrm_jax.configs import default
  from dlrm_jax.embedding.features import mean_pooled
  from dlrm_jax.quantization.sparse import specialised
  from dlrm_jax.scoring.engine import engine_of
  from dlrm_jax.scoring.function import LoadedNetwork
  from dlrm_jax.scoring.of_run import intake_of_run
  from dlrm_jax.scoring.scorer import Scorer

  chosen = choose(path, str(checkpoint), default.get_config().to_dict())
  run, network = chosen.run, chosen.run.task.network
  mesh = sharding.choose_mesh(network.collection.layout.shards, {})
  with sharding.use(mesh):
    state = chosen.state()
    forms = sparse_forms(run.config)
    scored = specialised(network, state.layers, forms)
    engine = engine_of(scored.network, scored.layers, state.tables)

  def intake() -> 'Intake':
    work = tempfile.mkdtemp()
    try:
      made = intake_of_run(run, Path(work))
    except BaseException:
      shutil.rmtree(work, ignore_errors=True)
      raise
    weakref.finalize(made, shutil.rmtree, work, ignore_errors=True)
    return made

  card = Card(
    str(path),
    chosen.step,
    chosen.saved.metrics(chosen.step),
    run.model_name,
    run.known_data,
    out_of_range(run),
    mean_pooled(network.collection.features),
    weighted=False,  # with or without weights: it is compiled for either
  )
  return Model(
    card,
    Scorer(engine.score, mesh),
    intake,
    lambda: LoadedNetwork(scored.network, scored.layers, state.tables, mesh),
    engine.words,
  )
