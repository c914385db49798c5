"""The flags of `prepare` -> a preparation, which is printed and run."""

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.config import config_file
from dlrm_jax.config.fields import read_size
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import beam, known_ids, pipeline, resources, work
from dlrm_jax.prepare.criteo.criteo_rows import SPARSE
from dlrm_jax.prepare.criteo.settings import CriteoSettings, criteo_preparation
from dlrm_jax.prepare.movielens import movielens_reader as movielens
from dlrm_jax.prepare.preparation import (
  Preparation,
  Settings,
  preparation_of,
)
from dlrm_jax.prepare.readers import formats
from dlrm_jax.prepare.splits import DEFAULT, MOVIELENS_DEFAULT, parse_splits
from dlrm_jax.prepare.stages.multi_hot import MAX_HOTNESS, numbers_by_feature
from dlrm_jax.prepare.stages.number import MAX_ROWS, Numbering
from dlrm_jax.prepare.units import Stage
from dlrm_jax.text import human
from dlrm_jax.vocabulary.policy import STOP

_NUMBERING = (
  *('mode', 'min_count', 'max_ind_range', 'hash_rows'),
  *('multi_hot', 'num_embeddings'),
)

_SHOWN = 24
"""Number of input files of a part that are printed by name."""


def _typed(flags: argparse.Namespace, name: str) -> str | None:
  """An option as the user typed it; None if it was left out."""
  value = getattr(flags, name, None)
  if value is None or value is False:
    return None
  return f'--{name}' if value is True else f'--{name}={value}'


def _refuse(
  flags: argparse.Namespace, names: Sequence[str], beside: str, why: str
) -> None:
  """Raises `InputError` for options without an effect beside another one."""
  for name in names:
    if typed := _typed(flags, name):
      raise InputError(f'{typed} has no effect beside {beside}: {why}')


class Request(NamedTuple):
  """A preparation, as the flags ask for it.

  Attributes:
    preparation: the preparation.
    rows: the way values become rows, in words.
  """

  preparation: Preparation
  rows: str


def _inputs(flags: argparse.Namespace, kind: str) -> dict[str, list[str]]:
  """Files by split; or those of one part, 'all', which is cut into splits.

  Args:
    flags: flags with the names of files, folders and globs.
    kind: name of the format.

  Raises:
    InputError: options of the splits contradict each other.
  """
  if flags.keep_order:
    why = 'it is of the shuffle; leave one of them out'
    _refuse(flags, ['seed'], '--keep_order', why)
  parts = {'train': flags.input}
  if flags.validation_input:
    parts['validation'] = flags.validation_input
  if flags.test_input:
    parts['test'] = flags.test_input
  if flags.splits is not None and len(parts) > 1:
    raise InputError(
      '--splits cuts one log; with --validation_input or --test_input the '
      'files are the splits: leave --splits out'
    )
  if len(parts) == 1:
    parts = {'all': flags.input}
  return {part: formats.files_of(kind, names) for part, names in parts.items()}


def _splits(
  flags: argparse.Namespace, inputs: Mapping[str, Sequence[str]]
) -> str | None:
  """Shares of the splits; None if each split has files of its own."""
  if 'all' not in inputs:
    return None
  return DEFAULT if flags.splits is None else flags.splits


def _criteo_log(flags: argparse.Namespace) -> Request:
  if flags.vocabulary is not None:
    return _with_known_ids(flags)
  inputs = _inputs(flags, 'criteo')
  if flags.max_ind_range is not None and flags.max_ind_range < 1:
    raise InputError(
      f'--max_ind_range={flags.max_ind_range}: expected 1 or more'
    )
  if flags.hash_rows is not None and flags.mode == 'frequency':
    why = 'hashing counts nothing; leave one of them out'
    _refuse(flags, ['mode'], f'--hash_rows={flags.hash_rows}', why)
  settings = CriteoSettings(
    mode=flags.mode or 'frequency',
    min_count=flags.min_count,
    max_ind_range=flags.max_ind_range or 0,
    hash_rows=flags.hash_rows,
    multi_hot=numbers_by_feature(
      '--multi_hot', flags.multi_hot, len(SPARSE), MAX_HOTNESS
    ),
    num_embeddings=numbers_by_feature(
      '--num_embeddings', flags.num_embeddings, len(SPARSE), MAX_ROWS
    ),
    splits=_splits(flags, inputs),
    shuffle=not flags.keep_order,
    seed=flags.seed or 0,
    on_bad_row=flags.on_bad_row,
  )
  return Request(criteo_preparation(inputs, settings), settings.described)


def _raw_log(flags: argparse.Namespace) -> Request:
  """A log whose columns a config describes."""
  if flags.vocabulary is not None:
    return _with_known_ids(flags)
  if not flags.config:
    raise InputError(
      '--config=FILE must be given: it says what the columns are (docs/raw.md)'
    )
  data = _load(flags.config).data
  raw = data.raw.to_dict()
  inputs = _inputs(flags, raw.get('format', ''))
  raw = formats.with_table_sizes(
    raw, [f for files in inputs.values() for f in files]
  )
  numbering = _numbering(flags.min_count)
  settings = Settings(
    splits=_splits(flags, inputs),
    numbering=numbering,
    shuffle=not flags.keep_order,
    seed=flags.seed or 0,
    on_bad_row=flags.on_bad_row,
  )
  reader = formats.reader_of(raw)
  out_of_range = data.get('out_of_range', STOP)
  preparation = preparation_of(
    reader, inputs, settings, raw, out_of_range=out_of_range
  )
  if all(column.ids != 'vocabulary' for column in reader.columns.sparse):
    why = 'no feature there has a vocabulary; leave it out'
    _refuse(flags, ['min_count'], f'--config={flags.config}', why)
  seen = f'seen {numbering.min_count} times or more'
  return Request(preparation, f'as {flags.config} says, {seen}')


def _movielens_log(flags: argparse.Namespace) -> Request:
  """The ratings of MovieLens, in the order of time."""
  description = movielens.format_of(flags.name)
  numbering = _numbering(flags.min_count)
  splits = MOVIELENS_DEFAULT if flags.splits is None else flags.splits
  settings = Settings(splits, numbering, shuffle=False)
  archive = flags.input or movielens.downloaded(flags.name)
  reader = movielens.movielens_reader(description)
  inputs = {'all': [archive]}
  preparation = preparation_of(reader, inputs, settings, description)
  seen = f'seen {numbering.min_count} times or more'
  return Request(preparation, f'movielens/{flags.name}, {seen}')


def _numbering(min_count: int | None) -> Numbering:
  """Numbering by frequency of the values that occur in enough rows."""
  least = 1 if min_count is None else min_count
  if least < 1:
    raise InputError(f'--min_count={least}: expected 1 or more')
  return Numbering(min_count=least)


def _load(name: str) -> ConfigDict:
  """Loads FILE.py or FILE.py:VARIANT, whose `data.raw` describes columns."""
  config = config_file.load(name)
  if not ('data' in config and config.data.get('raw')):
    raise InputError(
      f'--config={name}: it does not say what the columns are; set '
      'config.data.raw = {...} (docs/raw.md)'
    )
  return config


def _with_known_ids(flags: argparse.Namespace) -> Request:
  """A log that gets the ids of the set named by --vocabulary."""
  beside = f'--vocabulary={flags.vocabulary}'
  _refuse(flags, _NUMBERING, beside, 'ids are those of that set')
  names: Collection[str] = ('test',)
  if flags.splits is not None:
    names = parse_splits(flags.splits, train=False)
  elif flags.validation_input or flags.test_input:
    names = ('train',)
  if 'train' not in names:
    why = 'it is of split train; add --splits=train=..., or leave it out'
    _refuse(flags, ('keep_order', 'seed'), beside, why)
  known = open_prepared(flags.vocabulary)
  kind = known.details['kind']
  command = kind if kind in ('criteo', movielens.FORMAT) else 'raw'
  if command != flags.kind:
    fix = f'use prepare {command}'
    if command == movielens.FORMAT:
      fix = (
        'other archives are scored by python -m dlrm_jax.evaluate --data=ZIP'
      )
    raise InputError(
      f'--vocabulary={flags.vocabulary}: made of {kind}, so other logs do not '
      f'fit; {fix}'
    )
  inputs = _inputs(flags, known.details.get('format', {}).get('format', ''))
  if names == ('test',):
    inputs = {'test': inputs['all']}
  settings = Settings(
    splits=flags.splits,
    shuffle='train' in names and not flags.keep_order,
    seed=flags.seed or 0,
    on_bad_row=flags.on_bad_row,
  )
  rows = f'the vocabularies of {flags.vocabulary}'
  out_of_range = STOP
  if flags.kind == 'raw' and flags.config:
    out_of_range = _load(flags.config).data.get('out_of_range', STOP)
  preparation = known_ids.preparation_with(
    known, inputs, settings, out_of_range
  )
  return Request(preparation, rows)


def request_of(flags: argparse.Namespace) -> Request:
  """The preparation that the flags ask for.

  Raises:
    InputError: a flag or a file is wrong.
  """
  kinds = {'criteo': _criteo_log, 'raw': _raw_log, 'movielens': _movielens_log}
  return kinds[flags.kind](flags)


def run_request(flags: argparse.Namespace, request: Request) -> None:
  """Prints a preparation, and runs it."""
  preparation = request.preparation
  memory, stage, by = _resources(flags, preparation)
  for part, files in preparation.inputs.items():
    sizes = [os.path.getsize(f) if os.path.isfile(f) else 0 for f in files]
    for file, size in zip(files[:_SHOWN], sizes, strict=False):
      print(f'{part:<12}{file} ({human(size)})')
    if more := sizes[_SHOWN:]:
      print(
        f'{part:<12}and {len(more):,} more files, in this order to '
        f'{files[-1]} ({human(sum(more))})'
      )
  print(f'{"rows":<12}about {preparation.rows:,}')
  settings = preparation.settings
  print(f'{"splits":<12}{settings.splits or "the files"}')
  print(f'{"categories":<12}{request.rows}')
  if settings.shuffle:
    print(
      f'{"order":<12}of train shuffled, seed {settings.seed}; of others kept'
    )
  else:
    print(f'{"order":<12}kept')
  print(f'{"bad rows":<12}{settings.on_bad_row}')
  print(f'{"memory":<12}at most {human(memory)}: {by}')
  print(f'{"disk":<12}about {human(preparation.disk)} while it is made')
  print(f'{"output":<12}{flags.output}', flush=True)
  pipeline.prepare_set(
    preparation, flags.output, memory, flags.overwrite, stage
  )


def _resources(
  flags: argparse.Namespace, preparation: Preparation
) -> tuple[int, Stage | None, str]:
  """Bytes of memory, the stage of --beam or None, and a text about both."""
  if flags.beam is None:
    memory = resources.default_memory()
    if flags.memory is not None:
      memory = read_size('--memory', flags.memory)
    workers = resources.divided(memory, preparation.row_bytes).workers
    return memory, None, f'{workers} workers'
  memory = 2 * 10**9
  if flags.memory is not None:
    memory = read_size('--memory', flags.memory)
  resources.divided(memory, preparation.row_bytes, 1)
  folder = work.folder_of(flags.output)
  by = f'each worker of Apache Beam; all must share the input and {folder}'
  return memory, beam.by_beam(flags.beam, folder), by
