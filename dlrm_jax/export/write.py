"""A checkpoint of a run -> the folder of an export."""

import dataclasses
import math
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from dlrm_jax import files
from dlrm_jax.build.chosen import ChosenRun
from dlrm_jax.build.trained import Trained
from dlrm_jax.checkpoint.damage import explain_read_errors
from dlrm_jax.checkpoint.fits import TABLES
from dlrm_jax.checkpoint.moving import move_into, rows_to_move
from dlrm_jax.checkpoint.stored import families_of
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.features import mean_pooled
from dlrm_jax.embedding.layout import layout_to_json
from dlrm_jax.embedding.network import Network
from dlrm_jax.export.program import serialized
from dlrm_jax.scoring import export_folder
from dlrm_jax.scoring.exported import wanted_tables
from dlrm_jax.scoring.function import flat
from dlrm_jax.scoring.intake import Intake, to_json
from dlrm_jax.scoring.of_run import intake_of_run
from dlrm_jax.scoring.parameters import (
  flat_layers,
  flat_tables,
  on_host,
  tables_of,
)
from dlrm_jax.training.state import abstract_state


def _mapped(path: Path, like: jax.ShapeDtypeStruct) -> np.memmap:
  """A new file of NumPy as a mapped array of zeros.

  Args:
    path: the file.
    like: shape and dtype.

  Raises:
    OSError: the disk has no room for it.
  """
  dtype = np.dtype(like.dtype)
  header = {
    'descr': np.lib.format.dtype_to_descr(dtype),
    'fortran_order': False,
    'shape': like.shape,
  }
  with path.open('wb') as file:
    np.lib.format.write_array_header_1_0(file, header)
    files.allocate(file, math.prod(like.shape) * dtype.itemsize)
  return np.lib.format.open_memmap(path, 'r+')


def write_tables(
  chosen: ChosenRun, network: Network, folder: Path
) -> dict[str, Any]:
  """Writes the tables in the layout of a flat network, piece by piece.

  Returns:
    File, shape and dtype of each array, by name.
  """
  layout = network.collection.layout
  stored = chosen.saved.open(chosen.step)
  folder.mkdir()
  shapes = flat_tables(wanted_tables(network))
  arrays = {
    name: _mapped(folder / f'{name.replace("/", ".")}.npy', x)
    for name, x in shapes.items()
  }
  there = families_of(stored.arrays, stored.layout)[TABLES]
  with (
    explain_read_errors(stored.folder, []),
    tqdm(
      desc='tables',
      total=rows_to_move(stored.layout, layout),
      unit=' rows',
      unit_scale=True,
      delay=2,
      mininterval=0.1 if sys.stderr.isatty() else 5,
    ) as bar,
  ):
    move_into(there, stored.layout, tables_of(arrays), layout, bar.update)
  for array in arrays.values():
    array.flush()
  return {
    name: {
      'file': f'{export_folder.TABLES}/{name.replace("/", ".")}.npy',
      'shape': list(x.shape),
      'dtype': str(x.dtype),
    }
    for name, x in arrays.items()
  }


def write_vocabularies(run: Trained, folder: Path) -> Intake:
  """Writes vocabularies and their lookup tables; returns the intake."""
  folder.mkdir()
  intake = intake_of_run(run, folder)

  def moved(path: Path) -> Path:
    return path.rename(folder / path.name)

  coders = tuple(
    dataclasses.replace(
      coder,
      tables=tuple(map(moved, coder.tables)),
      bags=coder.bags and moved(coder.bags),
    )
    for coder in intake.coders
  )
  for name in ('tables', 'bags'):
    shutil.rmtree(folder / name, ignore_errors=True)
  copies = {
    name: Path(shutil.copyfile(path, folder / path.name))
    for name, path in intake.vocabularies.items()
  }
  return dataclasses.replace(intake, coders=coders, vocabularies=copies)


def _logical(network: Network) -> dict[str, Any]:
  """Where the rows of each table are: its stack, first row, rows, width."""
  layout = network.collection.layout
  return {
    name: {
      'stack': block.stack,
      'first_row': block.offset,
      'rows': layout.rows[name],
      'width': block.dim,
    }
    for name, (block,) in layout.blocks.items()
  }


def write_export(
  chosen: ChosenRun, output: Path, *, onnx: bool = False
) -> None:
  """Writes an export, whole or not at all.

  Args:
    chosen: the run and its checkpoint.
    output: the folder, which must not exist.
    onnx: whether to write `network.onnx`, too.

  Raises:
    InputError: the checkpoint is damaged, the prepared set of the run is gone,
      the network cannot be converted, or the folder cannot be written.
  """
  with files.beside(output) as folder:
    work = folder / 'export'
    work.mkdir()
    _fill(chosen, work, onnx=onnx)
    files.publish(work, output.absolute())


def _fill(chosen: ChosenRun, work: Path, *, onnx: bool) -> None:
  _, run, step, saved = chosen
  intake = write_vocabularies(run, work / export_folder.VOCABULARY)
  network = flat(run.task.network)
  layers = saved.restore_layers(step, abstract_state(run.task))
  arrays = on_host(flat_layers(layers))
  # Not `save_file`, whose files only their owner may read.
  (work / export_folder.PARAMETERS).write_bytes(save(arrays))
  tables = write_tables(chosen, network, work / export_folder.TABLES)
  program = serialized(
    network,
    arrays,
    flat_tables(wanted_tables(network)),
    weighted=intake.weighted,
  )
  (work / export_folder.NETWORK).write_bytes(program)
  if onnx:
    from dlrm_jax.export.onnx_network import write_onnx

    write_onnx(work, network, tables, weighted=intake.weighted)
  written = sorted(path for path in work.rglob('*') if path.is_file())
  schema = Schema.from_json(run.data)
  about = {
    'format': export_folder.FORMAT,
    'made_by': {
      name: metadata.version(name) for name in ('dlrm_jax', 'jax', 'flax')
    },
    'model': run.model_name,
    'labels': list(schema.labels),
    'inputs': {
      'dense': list(schema.dense),
      'ids': [dataclasses.asdict(column) for column in schema.sparse],
      'id_weights': intake.weighted,
      'means': list(mean_pooled(network.collection.features)),
    },
    'out_of_range': intake.out_of_range,
    'shards': run.shards,
    'tables': tables,
    'rows': _logical(network),
    'raw': to_json(intake),
    'run': {
      'step': step,
      'metrics': saved.metrics(step),
      'config': run.config.to_dict(),
      'data': run.known_data,
    },
    'layout': layout_to_json(network.collection.layout),
    'files': {
      path.relative_to(work).as_posix(): export_folder.file_entry(path)
      for path in written
    },
  }
  files.write_json(work / export_folder.MODEL, about)
