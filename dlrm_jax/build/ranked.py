"""The lists that a run ranks: positives of users, beside candidates."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from dlrm_jax.build.restored import Examined, watched, whole_lists
from dlrm_jax.build.trained import (
  Trained,
  check_fits,
  check_there,
  out_of_range,
)
from dlrm_jax.data.folder import is_set
from dlrm_jax.data.lists import IMPLICIT, ITEM
from dlrm_jax.data.loader import stream_batches
from dlrm_jax.data.prepared import Prepared, open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows

CATALOGUE = 'catalogue'
"""Word for all items of the catalogue as the candidates of each list."""


def _set_of(run: Trained, candidates: str) -> Prepared:
  """The set that a run was trained on, of users and their items."""
  if run.config.data.kind == 'prepared':
    check_there(run)
    prepared = open_prepared(run.config.data.dir)
    if prepared.details.get('kind') == IMPLICIT:
      check_fits(prepared, run.data)
      return prepared
  raise InputError(
    f'--candidates={candidates}: the model was not trained on users and their '
    f'items (`python -m dlrm_jax.prepare implicit`); leave it out'
  )


def _positives(prepared: Prepared, split: str) -> Iterator[np.ndarray]:
  """Users and items of the clicks of a split, i32[n, 2] for each block."""
  source = prepared.source(split)
  for number in range(len(source)):
    block = source[number]
    yield block.ids[block.labels[:, 0] == 1]


def ranked(
  run: Trained,
  paths: Sequence[str] | None,
  split: str | None,
  candidates: str,
  batch_size: int,
  on_bad_row: str,
) -> Examined:
  """Opens lists to rank.

  Args:
    run: the run, trained on a set of users and their items.
    paths: raw files of positives; None: the data of the training.
    split: split of that data; None: test.
    candidates: a file with the candidates of each line of one raw file, or
      'catalogue'.
    batch_size: number of examples of a global batch, at most.
    on_bad_row: 'stop' or 'skip'.

  Raises:
    InputError: the options do not go together, or a file is wrong.
  """
  # Readers of raw files: training does without them.
  from dlrm_jax.prepare.implicit import list_files

  prepared, bad = _set_of(run, candidates), BadRows(on_bad_row)
  whole = candidates == CATALOGUE
  if paths and (split or is_set(paths)):
    raise InputError(
      f'--data={paths[0]}: expected raw files with --candidates={candidates}, '
      f'and no --split'
    )
  if not whole and (not paths or len(paths) > 1):
    raise InputError(
      f'--candidates={candidates}: expected --data=FILE, one file with a line '
      f'for each list'
    )
  name = paths[0] if paths else split or 'test'
  if whole:
    positives = (
      list_files.read_positives(prepared, paths, bad)
      if paths
      else _positives(prepared, name)
    )
    items = prepared.details['columns'][ITEM]['kept']
    owned = list_files.owned_items(prepared)
    lists, blocks = list_files.over_catalogue(positives, owned, items)
  else:
    lists, blocks = list_files.read_lists(prepared, name, candidates, bad)
  size = whole_lists(run, lists, batch_size)
  batches = stream_batches(
    blocks,
    prepared.schema,
    size,
    jax.process_index(),
    jax.process_count(),
    name=name,
    out_of_range=out_of_range(run),
  )
  return watched(name, size, batches, prepared, bad)._replace(lists=lists)
