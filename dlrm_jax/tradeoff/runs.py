"""The runs of a comparison: each encoding at each ratio with each seed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.build.run import build_run
from dlrm_jax.errors import InputError
from dlrm_jax.run.description import Data, Run


class Variant(NamedTuple):
  """Tables of one kind and size.

  Attributes:
    name: ENCODING or ENCODING:COMBINE.
    ratio: times fewer parameters than plain tables.
  """

  name: str
  ratio: float

  def __str__(self) -> str:
    return self.name if self == _PLAIN else f'{self.name} at {self.ratio:g}'


_PLAIN = Variant('plain', 1.0)


class Job(NamedTuple):
  """A run that belongs to the comparison."""

  variant: Variant
  seed: int
  run: Run


def _ratio(word: str) -> float:
  try:
    ratio = float(word)
  except ValueError:
    ratio = math.nan
  if not 0 < ratio < math.inf:
    raise InputError(
      f'--ratios={word}: expected how many times fewer parameters than plain '
      f'tables, numbers such as 4,16,64'
    )
  return ratio


def _variants(given: Mapping[str, Any]) -> list[Variant]:
  """Plain tables, and each encoding at each ratio."""
  if given['seeds'] < 1:
    raise InputError(f'--seeds={given["seeds"]}: expected 1 or more')
  ratios = sorted({_ratio(word) for word in given['ratios']})
  names = [name for name in dict.fromkeys(given['encodings']) if name]
  variants = [Variant(n, r) for n in names if n != 'plain' for r in ratios]
  if not variants:
    raise InputError(
      'nothing to compare plain tables with: --encodings and --ratios need '
      'one each, such as --encodings=hashed --ratios=4'
    )
  return [_PLAIN, *variants]


def _config_of(config: ConfigDict, variant: Variant, seed: int) -> ConfigDict:
  """The config of a run."""
  encoding, _, combine = variant.name.partition(':')
  changed = config.copy_and_resolve_references()
  changed.seed = seed
  changed.tables.encoding = encoding
  changed.tables.combine = combine or changed.tables.combine
  changed.tables.compression = variant.ratio
  return changed


def build_jobs(
  config: ConfigDict, data: Data, folder: Path, given: Mapping[str, Any]
) -> tuple[list[Job], list[str]]:
  """All runs, built, and notes; nothing is read, made or trained.

  Seeds come one after the other, so that there is soon a picture of all.

  Raises:
    InputError: the config, an encoding or a ratio is not possible.
  """
  seeds = range(config.seed, config.seed + given['seeds'])
  jobs: list[Job] = []
  notes: list[str] = []
  for variant in _variants(given):
    short = f'{variant.name.replace(":", "_")}-{variant.ratio:g}'
    found = []
    try:
      for seed in seeds:
        own = _config_of(config, variant, seed)
        place = folder / 'runs' / f'{short}-{seed}'
        found.append(Job(variant, seed, build_run(own, data, place)))
    except InputError as error:
      if variant == _PLAIN:
        raise
      raise InputError(
        f'--encodings={variant.name} --ratios={variant.ratio:g}: {error}'
      ) from None
    features = found[0].run.task.collection.features
    same = [j for j in jobs if j.run.task.collection.features == features]
    if same:
      notes.append(f'{variant}: left out, same tables as {same[0].variant}')
    else:
      jobs += found
  if len(jobs) == len(seeds):
    raise InputError(
      'no encoding has other tables than the plain ones at these --ratios; '
      'tables of up to config.tables.threshold='
      f'{config.tables.threshold} ids stay plain in any case'
    )
  return sorted(jobs, key=lambda job: job.seed), notes


def find_split(data: Data) -> str:
  """The split that quality is measured on."""
  for split in ('test', 'validation'):
    if data.splits.get(split):
      return split
  raise InputError(
    f'the data has no split test or validation to measure quality on; it has '
    f'{", ".join(data.splits)}'
  )
