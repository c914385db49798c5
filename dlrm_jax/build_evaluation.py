"""A run built again from its workdir, and what to evaluate it on."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from dlrm_jax import agreement, build
from dlrm_jax.batch import Batch
from dlrm_jax.data.checked import STOP
from dlrm_jax.data.loader import Batches, evaluation_batches, stream_batches
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.errors import InputError
from dlrm_jax.training.run import Data
from dlrm_jax.training.state import Task


class Trained(NamedTuple):
  """A run as its workdir remembers it: config, `identity` of its data, task."""

  config: ConfigDict
  data: Mapping[str, Any]
  task: Task

  @property
  def eval_batch_size(self) -> int:
    """Examples of an evaluation's batch, as the config has it."""
    return self.config.train.eval_batch_size


def trained(config: Mapping[str, Any], data: Mapping[str, Any]) -> Trained:
  """A run, built again from what its workdir remembers (`workdir.read`)."""
  schema = Schema(
    tuple(data['dense']), tuple(Column(**column) for column in data['sparse'])
  )
  scale = Scale(**{k: tuple(v) for k, v in data['scale'].items()})
  fields = ConfigDict(config)
  return Trained(fields, data, build.build_task(fields, schema, scale))


class Examined(NamedTuple):
  """Data to evaluate on.

  Attributes:
    name: the split, or the raw file.
    batches: of it; this process's part of each.
    report: lines about rows that were skipped, once the batches are read.
  """

  name: str
  batches: Iterable[Batch]
  report: Callable[[], Iterable[str]]


def examined(
  run: Trained,
  path: str | None,
  split: str | None,
  batch_size: int,
  on_bad_row: str,
) -> Examined:
  """What to evaluate a run on.

  Args:
    run: whose ids the data must have.
    path: a prepared set, or a raw file of the kind that the run was trained
      on; None: what it was trained on.
    split: of a prepared set; None: test.
    batch_size: examples of a global batch.
    on_bad_row: 'stop' or 'skip', for a raw file.
  """
  if path and Path(path).is_file():
    if split:
      raise InputError(
        f'--split={split}: {path} is a raw file and has no splits'
      )
    return _raw(run, path, batch_size, on_bad_row)
  if path and not Path(path).exists():
    raise InputError(f'--data={path}: there is no such file or folder')
  data = open_prepared(path) if path else build.open_data(run.config)
  check_fits(data, run.data)
  split = split or 'test'
  batches = evaluation_batches(
    data.source(split),
    batch_size,
    jax.process_index(),
    jax.process_count(),
    name=f'{path or run.config.data.dir or "synthetic"}, split {split}',
    out_of_range=_out_of_range(run),
  )
  return Examined(split, batches, lambda: _lines(batches))


def _out_of_range(run: Trained) -> str:
  """What becomes of ids out of range; runs of before the field stop."""
  return run.config.data.get('out_of_range', STOP)


def _lines(batches: Batches) -> list[str]:
  """What was mapped, once all batches are read; every process asks."""
  count = agreement.total(batches.out_of_range)
  return [f'{count:,} ids out of range became the unknown row'] if count else []


def _raw(run: Trained, path: str, batch_size: int, on_bad_row: str) -> Examined:
  if run.config.data.kind != 'prepared':
    raise InputError(
      f'--data={path}: the model was trained on {run.config.data.kind} data, '
      f'which has no raw files'
    )
  # Readers of raw files: training does without them.
  from dlrm_jax.data import movielens
  from dlrm_jax.data.bad_rows import BadRows
  from dlrm_jax.data.rereading import read_raw

  prepared = open_prepared(run.config.data.dir)
  check_fits(prepared, run.data)
  bad = BadRows(on_bad_row)
  if prepared.details['kind'] == 'movielens':
    blocks = movielens.read_raw(prepared, path)
  else:
    blocks = read_raw(prepared, [path], on_bad_row, bad, _out_of_range(run))
  batches = stream_batches(
    blocks,
    prepared.schema,
    batch_size,
    jax.process_index(),
    jax.process_count(),
    name=path,
    out_of_range=_out_of_range(run),
  )

  def report() -> list[str]:
    return [*bad.report(), *_lines(batches)]

  return Examined(path, batches, report)


def check_fits(data: Data, trained_on: Mapping[str, Any]) -> None:
  """Raises `InputError` where ids of data are not those of the training.

  Args:
    data: what is to be evaluated.
    trained_on: `identity` of the training's data.
  """
  found = build.identity(data)
  for there, here in zip(trained_on['sparse'], found['sparse'], strict=False):
    if there != here:
      raise InputError(
        f'feature {here["name"]} has {here["rows"]:,} rows and hotness '
        f'{here["hotness"]} in the data; the model was trained with '
        f'{there["name"]}, {there["rows"]:,} rows, hotness '
        f'{there["hotness"]}. Prepared sets fit where both are hashed into '
        f'as many rows; otherwise evaluate the raw file'
      )
  for field in ('sparse', 'dense', 'ids'):
    if trained_on[field] != found[field]:
      raise InputError(
        f'the data has other {field} than the model was trained with (same '
        f'numbers, other meaning). Prepared sets fit where both are hashed '
        f'into as many rows; otherwise evaluate the raw file'
      )
