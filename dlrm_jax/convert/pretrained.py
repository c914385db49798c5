"""Makes a workdir whose tables begin with vectors of files.

Files have the columns that `vectors.py` writes: `value`, or `row` where there
is none, and `vector`, or its numbers.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from ml_collections import ConfigDict

from dlrm_jax import files, rows
from dlrm_jax.batch import PAD
from dlrm_jax.build.converted import first_key
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.objective import build_objective
from dlrm_jax.build.run import settled
from dlrm_jax.build.task import build_task
from dlrm_jax.build.trained import Trained
from dlrm_jax.convert.importing import Target, check_new, write_target
from dlrm_jax.convert.vectors import Asked, features_of, shared_with
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.layout import Stack, StackKind
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.frames import IN_MEMORY
from dlrm_jax.scoring.intake import Intake
from dlrm_jax.scoring.of_run import intake_of_run
from dlrm_jax.training.state import Task, TrainState, new_state

_PIECE = 1 << 16  # rows of a file that are read at a time


def _read(path: Path) -> Iterator[pl.DataFrame]:
  """Frames of a file."""
  if not path.is_file():
    raise InputError(f'{path}: no such file')
  try:
    if path.suffix == '.parquet':
      scan = pl.scan_parquet(path, glob=False)
    else:
      scan = pl.scan_csv(path, glob=False, infer_schema=False)
    count = scan.select(pl.len()).collect().item()
    for start in range(0, count, _PIECE):
      yield scan.slice(start, _PIECE).collect()
  except (OSError, pl.exceptions.PolarsError) as error:
    why = str(error).splitlines()[0][:200]
    raise InputError(f'{path}: cannot be read: {why}') from None


def _vectors(path: Path, frame: pl.DataFrame, width: int) -> np.ndarray:
  """The vectors of a frame, f32[n, width]."""
  if 'vector' in frame.columns:
    kind = frame['vector'].dtype
    if not isinstance(kind, pl.List | pl.Array):
      raise InputError(f'{path}: column vector is {kind}; expected lists')
    lists = frame['vector'].cast(pl.List(pl.Float32), strict=False)
    lengths = lists.list.len().fill_null(0)
    wrong = (lengths != width).arg_true()
    found = int(lengths[int(wrong[0])]) if len(wrong) else width
    values = lists.explode().to_numpy() if found == width else np.empty(0)
  else:
    names = [n for n in frame.columns if n not in ('row', 'value')]
    found = len(names)
    values = np.empty(0)
    if found == width:
      numbers = frame.select(pl.col(names).cast(pl.Float32, strict=False))
      values = numbers.to_numpy()
  if found != width:
    # Linear weights have width 1 whatever the config says.
    advice = f'set config.model.dim={found}, or ' if width > 1 else ''
    raise InputError(
      f'{path}: a vector of {found} numbers; the table has width {width}: '
      f'{advice}bring vectors of that width'
    )
  vectors = values.reshape(-1, width).astype(np.float32)
  wrong = ~np.isfinite(vectors).all(1)
  if wrong.any():
    row = int(np.argmax(wrong))
    name = frame['value' if 'value' in frame.columns else 'row'][row]
    raise InputError(
      f'{path}: the vector of {name!r} has a number that is missing, no number '
      f'or not finite; correct it, or leave the row out'
    )
  return vectors


def _rows(
  path: Path, frame: pl.DataFrame, intake: Intake, name: str, count: int
) -> np.ndarray:
  """The row of each vector of a frame, i32[n]; PAD where it has none.

  Args:
    path: the file, for messages.
    frame: its columns `value` and `row`, or one of them.
    intake: turns values into rows.
    name: the column of the feature.
    count: number of rows of the table.
  """
  if not {'value', 'row'} & set(frame.columns):
    raise InputError(
      f'{path}: expected a column value (or row) beside the vectors; there '
      f'are {", ".join(frame.columns[:20])}'
    )
  found = np.full(frame.height, PAD, np.int32)
  if 'row' in frame.columns:
    numbers = frame['row'].cast(pl.Int64, strict=False).fill_null(PAD)
    within = numbers.is_between(0, count - 1)
    found[within.to_numpy()] = numbers.filter(within).to_numpy()
  if 'value' in frame.columns:
    known = frame['value'].is_not_null()
    if known.any():
      values = frame['value'].filter(known)
      with _naming(path):
        found[known.to_numpy()] = _rows_of_values(intake, name, values)
  return found


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
  """Context in which errors of values name their file.

  The number of a row is left out, as rows without a value do not count.
  """
  try:
    yield
  except InputError as error:
    why = re.sub(rf'^{IN_MEMORY}, row [0-9,]+, ', '', str(error))
    raise InputError(f'{path}: {why}') from None


def _rows_of_values(intake: Intake, name: str, values: pl.Series) -> np.ndarray:
  """The row of each raw value, i32[n]; PAD where the vocabulary lacks it."""
  one = intake.only(name)
  (source,), (coder,) = one.schema.sparse, one.coders
  ids = one.inputs(values.alias(source.column).to_frame()).ids[:, 0]
  if coder.column.ids == 'vocabulary':  # the row before is of unknown values
    return np.where(ids < coder.base, PAD, ids)
  return ids


def _check_plain(pair: Asked, feature: Feature) -> None:
  """Raises an error where a table has no row of its own for every id."""
  if not isinstance(feature.encoding, Plain):
    raise InputError(
      f'{pair}: its table is {feature.encoding.meaning}, in which a value has '
      f'no row of its own; set config.tables.encoding=plain'
    )


class _Taken(NamedTuple):
  """A state with vectors of a file.

  Attributes:
    state: the state.
    rows: number of rows of the table that have a vector of the file.
    unknown: number of vectors of the file that are of no row.
  """

  state: TrainState
  rows: int
  unknown: int


def _take(
  task: Task, state: TrainState, feature: Feature, path: Path, intake: Intake
) -> _Taken:
  """Writes the vectors of a file into the table of a feature.

  Of several vectors of one row the last one stays.

  Raises:
    InputError: the file does not fit, or has no vector for the table.
  """
  (table,), layout = feature.encoding.tables, task.collection.layout
  tables, seen, unknown = dict(state.tables), np.zeros(table.rows, bool), 0
  put = jax.jit(rows.put, donate_argnums=0)
  for frame in _read(path):
    vectors = _vectors(path, frame, table.dim)
    places = _rows(path, frame, intake, feature.source, table.rows)
    unknown += int((places < 0).sum())
    # The last vector of each row; all others get rows that do not exist.
    _, last = np.unique(places[::-1], return_index=True)
    kept = np.full(len(places), PAD, np.int32)
    kept[len(places) - 1 - last] = places[len(places) - 1 - last]
    absent = -1 - np.arange(len(places), dtype=np.int32)
    seen[kept[kept >= 0]] = True
    for block in layout.blocks[table.name]:
      stack = layout.stacks[block.stack]
      columns = vectors[:, block.column : block.column + block.dim]
      encoded = stack.storage.encode(jnp.asarray(columns), None)
      for node in range(stack.shards if _is_copied(stack) else 1):
        where = np.where(kept < 0, absent, layout.locate(block, kept, node))
        tables[block.stack] = put(
          tables[block.stack], jnp.asarray(where, jnp.int32), encoded
        )
  if not seen.any():
    raise InputError(
      f'{path}: none of its {unknown:,} vectors is of a row of '
      f'{feature.source}; expected values of its vocabulary in a column value, '
      f'or rows 0 to {table.rows - 1:,} in a column row'
    )
  new = dataclasses.replace(state, tables=tables)
  return _Taken(new, int(seen.sum()), unknown)


def _is_copied(stack: Stack) -> bool:
  """Whether every node has a copy of the rows of a stack."""
  return stack.kind is StackKind.INDEPENDENT


def import_vectors(
  config: ConfigDict,
  folder: Path,
  pairs: Sequence[Asked],
  defaults: Mapping[str, Any],
) -> Iterator[str]:
  """Makes a workdir whose tables begin with vectors of files.

  All else is as in the first state of a run.

  Args:
    config: all settings; `config.data.dir` names the prepared set.
    folder: the workdir; it appears whole, or not at all.
    pairs: the features and their files.
    defaults: default of every field.

  Yields:
    Lines that say what was taken.
  """
  check_new(config, folder, '--tables')
  data = open_data(config)
  config = settled(config)
  task = build_task(config, data.schema, data.scale)
  known = identity(data)
  objective = build_objective(config, data.schema)
  state = new_state(task, first_key(config))
  features = task.collection.features
  chosen = features_of(pairs, features)
  for pair, feature in zip(pairs, chosen, strict=True):
    _check_plain(pair, feature)
  lines = []
  with files.beside(folder) as work:
    lookup = work / 'lookup'
    lookup.mkdir()
    run = Trained(config, known, task, objective)
    intake = intake_of_run(run, lookup)
    for (what, path), feature in zip(pairs, chosen, strict=True):
      state, taken, unknown = _take(task, state, feature, path, intake)
      (table,) = feature.encoding.tables
      others = (
        f'; {unknown:,} vectors are of values that are not in the vocabulary'
        if unknown
        else ''
      )
      lines.append(
        f'{what}: {taken:,} of {table.rows:,} rows from {path}{others}'
        f'{shared_with(feature, features)}'
      )
    target = Target(config, known, data.schema, task)
    write_target(work / 'workdir', target, state, defaults)
    files.publish(work / 'workdir', folder.absolute())
  yield f'{folder}: a first state, as the checkpoint of step 0'
  yield from lines
