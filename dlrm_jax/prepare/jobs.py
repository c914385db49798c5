"""The flags of `prepare` -> what is to be done, with what, and its plan."""

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.config import config_file
from dlrm_jax.config.fields import read_size
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import beam, budget, pipeline, rereading, work
from dlrm_jax.prepare.criteo import options as criteo
from dlrm_jax.prepare.criteo.criteo_rows import SPARSE
from dlrm_jax.prepare.movielens import movielens_reader as movielens
from dlrm_jax.prepare.pipeline import Job
from dlrm_jax.prepare.readers import formats
from dlrm_jax.prepare.splits import DEFAULT, parse_splits
from dlrm_jax.prepare.stages import multi_hot
from dlrm_jax.prepare.stages.number import Numbering
from dlrm_jax.prepare.units import Stage
from dlrm_jax.vocabulary.policy import STOP

_NUMBERING = (
  *('mode', 'min_count', 'max_ind_range', 'hash_rows'),
  *('multi_hot', 'num_embeddings'),
)


_SHOWN = 24
"""Input files of a part that are named in the plan."""


def _given(flags: argparse.Namespace, name: str) -> str | None:
  """An option as it was given; None where it was not."""
  value = getattr(flags, name, None)
  if value is None or value is False:
    return None
  return f'--{name}' if value is True else f'--{name}={value}'


def _refuse(
  flags: argparse.Namespace, names: Sequence[str], beside: str, why: str
) -> None:
  """Refuses options that would have no effect beside another."""
  for name in names:
    if given := _given(flags, name):
      raise InputError(f'{given} has no effect beside {beside}: {why}')


class Asked(NamedTuple):
  """What flags ask for.

  Attributes:
    job: what is to be prepared.
    rows: how values become rows, in words.
  """

  job: Job
  rows: str


def _inputs(flags: argparse.Namespace, kind: str) -> dict[str, list[str]]:
  """Files by the part that they are of; one part is cut in splits.

  Args:
    flags: what the user names: files, folders, globs.
    kind: the format.

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
  """Shares of the splits; None where files are the splits."""
  if 'all' not in inputs:
    return None
  return DEFAULT if flags.splits is None else flags.splits


def _criteo_log(flags: argparse.Namespace) -> Asked:
  """A Criteo log."""
  if flags.vocabulary is not None:
    return _known(flags)
  inputs = _inputs(flags, 'criteo')
  if flags.max_ind_range is not None and flags.max_ind_range < 1:
    raise InputError(
      f'--max_ind_range={flags.max_ind_range}: expected 1 or more'
    )
  if flags.hash_rows is not None and flags.mode == 'frequency':
    why = 'hashing counts nothing; leave one of them out'
    _refuse(flags, ['mode'], f'--hash_rows={flags.hash_rows}', why)
  options = criteo.Options(
    mode=flags.mode or 'frequency',
    min_count=flags.min_count,
    max_ind_range=flags.max_ind_range or 0,
    hash_rows=flags.hash_rows,
    multi_hot=multi_hot.numbers(
      '--multi_hot', flags.multi_hot, len(SPARSE), multi_hot.MAX_HOTNESS
    ),
    num_embeddings=multi_hot.numbers(
      '--num_embeddings', flags.num_embeddings, len(SPARSE), criteo.MAX_ROWS
    ),
    splits=_splits(flags, inputs),
    shuffle=not flags.keep_order,
    seed=flags.seed or 0,
    on_bad_row=flags.on_bad_row,
  )
  return Asked(criteo.job(inputs, options), options.described)


def _raw_log(flags: argparse.Namespace) -> Asked:
  """A log of which a config says what its columns are."""
  if flags.vocabulary is not None:
    return _known(flags)
  if not flags.config:
    raise InputError(
      '--config=FILE must be given: it says what the columns are (docs/raw.md)'
    )
  data = _load(flags.config).data
  raw = data.raw.to_dict()
  inputs = _inputs(flags, raw.get('format', ''))
  raw = formats.completed(raw, [f for files in inputs.values() for f in files])
  numbering = _numbering(flags.min_count)
  options = pipeline.Options(
    splits=_splits(flags, inputs),
    numbering=numbering,
    shuffle=not flags.keep_order,
    seed=flags.seed or 0,
    on_bad_row=flags.on_bad_row,
  )
  job = pipeline.job_of(
    formats.reader_of(raw),
    inputs,
    options,
    raw,
    out_of_range=data.get('out_of_range', STOP),
  )
  if all(column.ids != 'vocabulary' for column in job.reader.columns.sparse):
    why = 'no feature there has a vocabulary; leave it out'
    _refuse(flags, ['min_count'], f'--config={flags.config}', why)
  seen = f'seen {numbering.min_count} times or more'
  return Asked(job, f'as {flags.config} says, {seen}')


def _movielens_log(flags: argparse.Namespace) -> Asked:
  """Ratings of MovieLens, in the order of time."""
  said = movielens.format_of(flags.name)
  options = pipeline.Options(
    splits=flags.splits or movielens.SPLITS,
    numbering=_numbering(flags.min_count),
    shuffle=False,
  )
  file = flags.input or movielens.downloaded(flags.name)
  reader = movielens.movielens_reader(said)
  job = pipeline.job_of(reader, {'all': [file]}, options, said)
  return Asked(job, f'seen {options.numbering.min_count} times or more')


def _numbering(min_count: int | None) -> Numbering:
  """By frequency, of the values that occur in enough rows."""
  least = 1 if min_count is None else min_count
  if least < 1:
    raise InputError(f'--min_count={least}: expected 1 or more')
  return Numbering(min_count=least)


def _load(name: str) -> ConfigDict:
  """The config of FILE.py, or FILE.py:VARIANT, that says what columns are."""
  config = config_file.load(name)
  if not ('data' in config and config.data.get('raw')):
    raise InputError(
      f'--config={name}: it does not say what the columns are; set '
      'config.data.raw = {...} (docs/raw.md)'
    )
  return config


def _known(flags: argparse.Namespace) -> Asked:
  """Prepares logs with the vocabularies of a set that is there."""
  beside = f'--vocabulary={flags.vocabulary}'
  _refuse(flags, _NUMBERING, beside, 'ids are those of that set')
  made: Collection[str] = ('test',)
  if flags.splits is not None:
    made = parse_splits(flags.splits, train=False)
  elif flags.validation_input or flags.test_input:
    made = ('train',)
  if 'train' not in made:
    why = 'it is of split train; add --splits=train=..., or leave it out'
    _refuse(flags, ('keep_order', 'seed'), beside, why)
  known = open_prepared(flags.vocabulary)
  kind = known.details['kind']
  command = kind if kind in ('criteo', movielens.FORMAT) else 'raw'
  if command != flags.kind:
    raise InputError(
      f'--vocabulary={flags.vocabulary}: made of {kind}, so other logs do not '
      f'fit; use prepare {command}'
    )
  inputs = _inputs(flags, known.details.get('format', {}).get('format', ''))
  if made == ('test',):
    inputs = {'test': inputs['all']}
  options = pipeline.Options(
    splits=flags.splits,
    shuffle='train' in made and not flags.keep_order,
    seed=flags.seed or 0,
    on_bad_row=flags.on_bad_row,
  )
  rows = f'the vocabularies of {flags.vocabulary}'
  out_of_range = STOP
  if flags.kind == 'raw' and flags.config:
    out_of_range = _load(flags.config).data.get('out_of_range', STOP)
  return Asked(rereading.job(known, inputs, options, out_of_range), rows)


def asked(flags: argparse.Namespace) -> Asked:
  """What the flags of a kind ask for."""
  kinds = {'criteo': _criteo_log, 'raw': _raw_log, 'movielens': _movielens_log}
  return kinds[flags.kind](flags)


def run(flags: argparse.Namespace, asked: Asked) -> None:
  """Prints the plan of a job, and does it."""
  job = asked.job
  memory, stage, by = _means(flags, job)
  for part, files in job.inputs.items():
    sizes = [os.path.getsize(f) if os.path.isfile(f) else 0 for f in files]
    for file, size in zip(files[:_SHOWN], sizes, strict=False):
      print(f'{part:<12}{file} ({size / 1e6:,.1f} MB)')
    if more := sizes[_SHOWN:]:
      print(
        f'{part:<12}and {len(more):,} more files, in this order to '
        f'{files[-1]} ({sum(more) / 1e6:,.1f} MB)'
      )
  print(f'{"rows":<12}about {job.rows:,}')
  options = job.options
  print(f'{"splits":<12}{options.splits or "the files"}')
  print(f'{"categories":<12}{asked.rows}')
  if options.shuffle:
    print(
      f'{"order":<12}of train shuffled, seed {options.seed}; of others kept'
    )
  else:
    print(f'{"order":<12}kept')
  print(f'{"bad rows":<12}{options.on_bad_row}')
  print(f'{"memory":<12}{memory / 1e9:.1f} GB: {by}')
  print(f'{"disk":<12}about {job.disk / 1e9:,.2f} GB while it is made')
  print(f'{"output":<12}{flags.output}', flush=True)
  pipeline.run(job, flags.output, memory, flags.overwrite, stage)


def _means(
  flags: argparse.Namespace, job: Job
) -> tuple[int, Stage | None, str]:
  """What a job is done with: memory, a stage or None, and both in words."""
  if flags.beam is None:
    memory = budget.default_memory()
    if flags.memory is not None:
      memory = read_size('--memory', flags.memory)
    share = budget.budget(memory, job.row_bytes)
    return memory, None, f'{share.workers} workers'
  memory = 2 * 10**9
  if flags.memory is not None:
    memory = read_size('--memory', flags.memory)
  budget.budget(memory, job.row_bytes, 1)
  folder = work.folder_of(flags.output)
  by = f'each worker of Apache Beam; all must share the input and {folder}'
  return memory, beam.running(flags.beam, folder), by
