"""The runs of a study: each encoding at each ratio with each seed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.build.run import build_run
from dlrm_jax.data.schema import Data
from dlrm_jax.errors import InputError
from dlrm_jax.sweep.trials import Trial


class Variant(NamedTuple):
  """An encoding at one size.

  Attributes:
    name: ENCODING or ENCODING:COMBINE.
    ratio: how many times fewer parameters than plain tables.
  """

  name: str
  ratio: float

  def __str__(self) -> str:
    return self.name if self == _PLAIN else f'{self.name} at {self.ratio:g}'


_PLAIN = Variant('plain', 1.0)


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


def _variants(flags: Mapping[str, Any]) -> list[Variant]:
  """Plain tables, and each encoding at each ratio."""
  if flags['seeds'] < 1:
    raise InputError(f'--seeds={flags["seeds"]}: expected 1 or more')
  ratios = sorted({_ratio(word) for word in flags['ratios']})
  names = [name for name in dict.fromkeys(flags['encodings']) if name]
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


def _build_variant(
  config: ConfigDict, data: Data, folder: Path, variant: Variant, seeds: range
) -> list[Trial]:
  """The runs of a variant."""
  name = f'{variant.name.replace(":", "_")}-{variant.ratio:g}'
  try:
    return [
      Trial(
        variant,
        seed,
        build_run(
          _config_of(config, variant, seed),
          data,
          folder / 'runs' / f'{name}-{seed}',
        ),
      )
      for seed in seeds
    ]
  except InputError as error:
    if variant == _PLAIN:
      raise
    raise InputError(
      f'--encodings={variant.name} --ratios={variant.ratio:g}: {error}'
    ) from None


def build_runs(
  config: ConfigDict, data: Data, folder: Path, flags: Mapping[str, Any]
) -> tuple[list[Trial], list[str]]:
  """Builds all runs, without reading data, writing files or training.

  All variants of the first seed come first, so that there is soon a picture.

  Returns:
    The runs, and notes of the variants left out.

  Raises:
    InputError: the config, an encoding or a ratio is not possible.
  """
  seeds = range(config.seed, config.seed + flags['seeds'])
  runs: list[Trial] = []
  notes: list[str] = []
  for variant in _variants(flags):
    more = _build_variant(config, data, folder, variant, seeds)
    features = more[0].run.task.collection.features
    same = [r for r in runs if r.run.task.collection.features == features]
    if same:
      notes.append(f'{variant}: left out, same tables as {same[0].point}')
    else:
      runs += more
  if len(runs) == len(seeds):
    raise InputError(
      'no encoding has other tables than the plain ones at these --ratios; '
      'tables of up to config.tables.threshold='
      f'{config.tables.threshold} ids stay plain in any case'
    )
  return sorted(runs, key=lambda run: run.seed), notes


def find_split(data: Data) -> str:
  """The split on which quality is measured: test, or else validation.

  Raises:
    InputError: there is no such split, or the data has several labels.
  """
  labels = data.schema.labels
  if len(labels) > 1:
    raise InputError(
      f'the data has several labels ({", ".join(labels)}); encodings are '
      f'compared on data with one'
    )
  for split in ('test', 'validation'):
    if data.splits.get(split):
      return split
  raise InputError(
    f'the data has no split test or validation to measure quality on; it has '
    f'{", ".join(data.splits)}'
  )
