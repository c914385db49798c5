"""Learned vectors of features as files of value and vector, out and in.

Parquet has the columns `row`, `value` and `vector`, a list of numbers; CSV has
`v0`, `v1`, ... in place of `vector`. Files that come in need `value`, or `row`
where they have no value.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from ml_collections import ConfigDict

from dlrm_jax import files, rows
from dlrm_jax.batch import PAD
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.objective import build_objective
from dlrm_jax.build.run import settled
from dlrm_jax.build.task import build_task
from dlrm_jax.build.trained import Trained
from dlrm_jax.convert.importing import Target, write_workdir
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.layout import Stack, StackKind
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.intake import Intake
from dlrm_jax.scoring.load import load
from dlrm_jax.scoring.of_run import intake_of_run
from dlrm_jax.scoring.output import check_name, writer_of
from dlrm_jax.training.state import Task, TrainState, new_state

_PIECE = 1 << 16  # rows of a file that are read at a time


def by_feature(words: list[str]) -> dict[str, Path]:
  """Reads `--tables NAME=FILE ...`.

  Raises:
    InputError: a word is no such pair, or names a feature again.
  """
  found: dict[str, Path] = {}
  for word in words:
    name, mark, file = word.partition('=')
    if not (name and mark and file):
      raise InputError(
        f'--tables {word}: expected FEATURE=FILE, such as item=items.parquet'
      )
    if name in found:
      raise InputError(f'--tables {word}: feature {name} has a file already')
    found[name] = Path(file)
    if found[name].suffix not in ('.csv', '.parquet'):
      raise InputError(
        f'--tables {word}: expected a name that ends in .csv or .parquet'
      )
  return found


def export_vectors(
  folder: Path, checkpoint: str, tables: Mapping[str, Path]
) -> Iterator[str]:
  """Writes the vectors of features, a file each, in bounded memory.

  Args:
    folder: a workdir or an export.
    checkpoint: which one, of a workdir.
    tables: a file for each feature.

  Yields:
    Lines that say what was written.
  """
  for name, path in tables.items():
    check_name(path, f'--tables {name}={path}')
  model = load(folder, checkpoint)
  for name, path in tables.items():
    count = 0
    with writer_of(path) as writer:
      for frame in model.learned.frames(model.intake, name):
        writer.add(frame if path.suffix == '.parquet' else _flat(frame))
        count += frame.height
    yield f'{path}: {count:,} vectors of {name}'


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
  """A column for each number of the vectors."""
  vectors = frame['vector'].to_numpy()
  numbers = pl.DataFrame(vectors, [f'v{k}' for k in range(vectors.shape[1])])
  return frame.drop('vector').hstack(numbers.get_columns())


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
    raise InputError(
      f'{path}: a vector of {found} numbers; the table has width {width}: '
      f'set config.model.dim={found}, or bring vectors of that width'
    )
  if not np.isfinite(values).all():
    raise InputError(f'{path}: a number of a vector is missing or not finite')
  return values.reshape(-1, width).astype(np.float32)


def _rows(
  path: Path, frame: pl.DataFrame, intake: Intake, name: str, count: int
) -> np.ndarray:
  """The row of each vector of a frame, i32[n]; PAD where it has none."""
  if 'value' not in frame.columns:
    if 'row' not in frame.columns:
      raise InputError(
        f'{path}: expected a column value (or row) beside the vectors; there '
        f'are {", ".join(frame.columns[:20])}'
      )
    numbers = frame['row'].cast(pl.Int64, strict=False).fill_null(PAD)
    found = numbers.to_numpy()
    return np.where((found >= 0) & (found < count), found, PAD).astype(np.int32)
  one = intake.only(name)
  (source,), (coder,) = one.schema.sparse, one.coders
  known = frame['value'].is_not_null()
  found = np.full(frame.height, PAD, np.int32)
  if known.any():
    values = frame['value'].filter(known).alias(source.column)
    ids = one.inputs(values.to_frame()).ids[:, 0]
    if coder.column.ids == 'vocabulary':  # the row before is of unknown values
      ids = np.where(ids < coder.base, PAD, ids)
    found[known.to_numpy()] = ids
  return found


def _plain_feature(task: Task, name: str) -> Feature:
  """The first feature of a column, whose table has a row for every id."""
  features = task.collection.features
  found = [feature for feature in features if feature.source == name]
  if not found:
    columns = dict.fromkeys(feature.source for feature in features)
    raise InputError(
      f'--tables {name}: there is no such feature; expected one of '
      f'{", ".join(columns)}'
    )
  if not isinstance(found[0].encoding, Plain):
    raise InputError(
      f'--tables {name}: its table is {found[0].encoding.meaning}, in which a '
      f'value has no row of its own; set config.tables.encoding=plain'
    )
  return found[0]


class _Taken(NamedTuple):
  """A state with vectors of a file, and numbers of its vectors."""

  state: TrainState
  rows: int
  unknown: int


def _take(
  task: Task, state: TrainState, name: str, path: Path, intake: Intake
) -> _Taken:
  """Writes the vectors of a file into the table of a feature.

  Of several vectors of one row the last one stays.
  """
  feature = _plain_feature(task, name)
  (table,), layout = feature.encoding.tables, task.collection.layout
  tables, seen, unknown = dict(state.tables), np.zeros(table.rows, bool), 0
  put = jax.jit(rows.put, donate_argnums=0)
  for frame in _read(path):
    vectors = _vectors(path, frame, table.dim)
    places = _rows(path, frame, intake, name, table.rows)
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
  new = dataclasses.replace(state, tables=tables)
  return _Taken(new, int(seen.sum()), unknown)


def _is_copied(stack: Stack) -> bool:
  """Whether every node has a copy of the rows of a stack."""
  return stack.kind is StackKind.INDEPENDENT


def import_vectors(
  config: ConfigDict,
  folder: Path,
  tables: Mapping[str, Path],
  defaults: Mapping[str, Any],
) -> Iterator[str]:
  """Makes a workdir whose tables begin with vectors of files.

  All else is as in the first state of a run.

  Args:
    config: all settings; `config.data.dir` names the prepared set.
    folder: the workdir; it appears whole, or not at all.
    tables: a file for each feature.
    defaults: default of every field.

  Yields:
    Lines that say what was taken.
  """
  if folder.exists():
    raise InputError(
      f'--workdir={folder}: is there already; choose another one'
    )
  data = open_data(config)
  config = settled(config)
  task = build_task(config, data.schema, data.scale)
  known = identity(data)
  objective = build_objective(config, data.schema)
  state = new_state(task, jax.random.key(config.seed))
  lines = []
  with (
    files.beside(folder) as work,
    tempfile.TemporaryDirectory(dir=work) as lookup,
  ):
    run = Trained(config, known, task, objective)
    intake = intake_of_run(run, Path(lookup))
    for name, path in tables.items():
      state, taken, unknown = _take(task, state, name, path, intake)
      (table,) = _plain_feature(task, name).encoding.tables
      others = f'; {unknown:,} vectors have none there' if unknown else ''
      lines.append(
        f'{name}: {taken:,} of {table.rows:,} rows from {path}{others}'
      )
    target = Target(config, known, data.schema, task)
    write_workdir(work / 'workdir', target, state, defaults)
    files.publish(work / 'workdir', folder.absolute())
  yield f'{folder}: a first state, as the checkpoint of step 0'
  yield from lines
