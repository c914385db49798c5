"""Opens the data to evaluate a run on: a prepared set, or raw files."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlrm_jax.batch import Batch
from dlrm_jax.build.data import open_data
from dlrm_jax.build.trained import (
  Trained,
  check_fits,
  check_there,
  out_of_range,
)
from dlrm_jax.cluster import agreement
from dlrm_jax.data.folder import is_set
from dlrm_jax.data.lists import Lists, lists_of
from dlrm_jax.data.loader import Batches, evaluation_batches, stream_batches
from dlrm_jax.data.prepared import Prepared, open_prepared
from dlrm_jax.data.schema import Data
from dlrm_jax.data.unknown import UnknownIds, unknown_rows
from dlrm_jax.embedding.features import mean_pooled
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.sharding import choose_devices
from dlrm_jax.training.nodes import node_count


class Examined(NamedTuple):
  """Data to evaluate on.

  Attributes:
    name: name of the split, or of the raw file.
    batch_size: number of examples of a batch.
    batches: the batches, this process's part of each.
    report: gives the findings of the reader, once all batches are read; every
      process must call it.
    lists: the lists to rank that the examples are; None: they are none.
  """

  name: str
  batch_size: int
  batches: Iterable[Batch]
  report: Callable[[], 'Met']
  lists: Lists | None = None


class Met(NamedTuple):
  """What the reader found in the data.

  Attributes:
    skipped: lines about skipped rows and changed values.
    lines: all lines to print.
    said: the same, as JSON can hold it.
  """

  skipped: list[str]
  lines: list[str]
  said: dict[str, Any]

  def check(self, count: float, name: str) -> None:
    """Raises an `InputError` if no example was found, with skipped rows.

    Args:
      count: number of examples that were found.
      name: name of the data.
    """
    if count:
      return
    kinds = [line for line in self.skipped if not line.startswith(' ')]
    why = ', '.join(line.removesuffix('; first:') for line in kinds)
    raise InputError(
      f'{name}: no row is left to evaluate on: '
      f'{why or "found none, expected at least one"}'
    )


def examined(
  run: Trained,
  paths: Sequence[str] | None,
  split: str | None,
  batch_size: int,
  on_bad_row: str,
  default: str = 'test',
) -> Examined:
  """Opens the data to evaluate a run on.

  Args:
    run: the run; the ids of the data must mean the same as in its training.
    paths: a prepared set, or raw files of the kind that the run was trained
      on, or folders of them; None: the data of the training.
    split: split of a prepared set; None: the default one.
    batch_size: number of examples of a global batch, at most where they are
      lists to rank.
    on_bad_row: 'stop' or 'skip', for raw files.
    default: the split of a prepared set to take where none is named.
  """
  if paths and not is_set(paths):
    if split:
      raise InputError(
        f'split {split!r}: {paths[0]} is a raw file and has no splits; leave '
        f'it out'
      )
    return _raw(run, paths, batch_size, on_bad_row)
  path = paths[0] if paths else run.config.data.dir or 'synthetic'
  if not paths:
    check_there(run)
  data = open_prepared(path) if paths else open_data(run.config)
  if not split and default not in data.splits:
    raise InputError(
      f'{path} has no split {default}; name another one: it has '
      f'{", ".join(data.splits)}'
    )
  check_fits(data, run.known_data)
  split = split or default
  lists = lists_of(data.details, split)
  if lists is not None:
    batch_size = whole_lists(run, lists, batch_size)
  batches = evaluation_batches(
    data.source(split),
    batch_size,
    jax.process_index(),
    jax.process_count(),
    name=f'{path}, split {split}',
    out_of_range=out_of_range(run),
    means=mean_pooled(run.task.collection.features),
  )
  found = watched(split, batch_size, batches, data, BadRows())
  return found._replace(lists=lists)


def whole_lists(run: Trained, lists: Lists, most: int) -> int:
  """Number of examples of a batch: each device or node has whole pieces."""
  shards = run.task.collection.layout.shards
  parts = node_count(run.task) or len(choose_devices(shards))
  return lists.batch_size(most, parts)


def watched(
  name: str, batch_size: int, batches: Batches, data: Data, bad: BadRows
) -> Examined:
  """Data whose unknown ids are counted, if the set knows their rows."""
  rows = unknown_rows(data) if isinstance(data, Prepared) else {}
  unknown = UnknownIds(data.schema, rows)

  def met() -> Met:
    skipped = [*bad.report(), *_lines(batches)]
    shares = unknown.shares()
    rows = bad.to_json()
    del rows['examples'], rows['labels']
    said: dict[str, Any] = {'bad_rows': rows} if skipped else {}
    if shares is None:
      return Met(skipped, skipped, said)
    said['unknown_ids'] = shares.to_json()
    return Met(skipped, [*skipped, *shares.lines()], said)

  return Examined(name, batch_size, unknown.watch(batches), met)


def _lines(batches: Batches) -> list[str]:
  """A line with the number of ids that became the unknown row, if any did.

  Every process must call it, after the last batch.
  """
  count = agreement.total(batches.out_of_range)
  return [f'{count:,} ids out of range became the unknown row'] if count else []


def _raw(
  run: Trained, paths: Sequence[str], batch_size: int, on_bad_row: str
) -> Examined:
  path = paths[0]
  if run.config.data.kind != 'prepared':
    if not Path(path).exists():
      raise InputError(f'--data={path}: there is no such file or folder')
    raise InputError(
      f'--data={path}: the model was trained on {run.config.data.kind} data, '
      f'which has no raw files'
    )
  # Readers of raw files: training does without them.
  from dlrm_jax.prepare.known_ids import read_raw

  check_there(run)
  prepared = open_prepared(run.config.data.dir)
  check_fits(prepared, run.data)
  bad = BadRows(on_bad_row)
  blocks = read_raw(prepared, paths, on_bad_row, bad, out_of_range(run))
  batches = stream_batches(
    blocks,
    prepared.schema,
    batch_size,
    jax.process_index(),
    jax.process_count(),
    name=path,
    out_of_range=out_of_range(run),
    means=mean_pooled(run.task.collection.features),
  )
  name = path if len(paths) == 1 else f'{path} and {len(paths) - 1} more'
  return watched(name, batch_size, batches, prepared, bad)
