"""The flags of the command, and what they ask for."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.build.tables import STORAGES
from dlrm_jax.colocate.engine import LARGEST
from dlrm_jax.colocate.models import AS_STORED, VARIANTS, Spec
from dlrm_jax.colocate.study import Wanted
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError
from dlrm_jax.queries.sizes import HELP, read_sizes
from dlrm_jax.scoring.load import mark_of
from dlrm_jax.traces.power_law import STEEPEST

_SPLIT = 32
_MOST = 64  # engines


def add_flags(parser: Parser) -> None:
  """Adds the flags."""
  parser.add_required('--models', 'MODEL,...', 'rmc1, rmc2, rmc3, or NAME=DIR')
  add = parser.add_argument
  add('--copies', default='1,2', help='numbers of engines (default: 1,2)')
  add(
    '--sla_ms',
    metavar='MS,...',
    help='target of the latency: one for all models, or one for each',
  )
  add('--percentile', type=float, default=95, help='of latencies (default: 95)')
  add(
    '--rate',
    type=float,
    help='queries a second of each engine, in place of the search',
  )
  add('--sizes', default='normal', help=f'{HELP} (default: normal)')
  add(
    '--split',
    type=int,
    help='most items of a piece of a query; the cores of an engine share the '
    f'pieces (default: {_SPLIT}, where engines have several cores)',
  )
  add(
    '--storage',
    default='',
    metavar='NAME,...',
    help='how rmc1, rmc2, rmc3 keep tables, as config.tables.storage (default: '
    'float32)',
  )
  add(
    '--cores',
    metavar='CORE,...',
    help='cores that engines take in turn; 0+1: both for one engine (default: '
    'one core each, of all that there are)',
  )
  add(
    '--scale',
    type=float,
    help='factor of the rows of rmc1, rmc2, rmc3 (default: 1)',
  )
  add(
    '--exponent',
    type=float,
    default=1.0,
    help='of the power law of ids; 0: all are equally popular (default: 1)',
  )
  add(
    '--seconds',
    type=float,
    default=10.0,
    help='duration of a measurement (default: 10)',
  )
  add('--seed', type=int, default=0, help='of all draws (default: 0)')
  add(
    '--output',
    metavar='FILE.md',
    help='page to write, with .svg and .json beside it, as far as it is known',
  )


def _names(text: str) -> list[str]:
  return [word.strip() for word in text.split(',') if word.strip()]


def _positive(flag: str, value: float, most: float = math.inf) -> float:
  if not 0 < value < math.inf or value > most:
    up_to = f', at most {most:g}' if most < math.inf else ''
    raise InputError(f'--{flag}={value:g}: expected a number above 0{up_to}')
  return value


def _folders(words: Sequence[str]) -> dict[str, Path | None]:
  """Models by name; variants have no folder."""
  found: dict[str, Path | None] = {}
  for word in words:
    name, equals, folder = word.partition('=')
    if name in found:
      raise InputError(f'--models={",".join(words)}: {name} is there twice')
    if equals and not (name and folder):
      raise InputError(f'--models: {word!r}; expected NAME=DIR')
    if not equals and name not in VARIANTS:
      raise InputError(
        f'--models: {name!r} is no model; expected {", ".join(VARIANTS)}, or '
        'NAME=DIR, a workdir or an export'
      )
    found[name] = Path(folder) if equals else None
  if not found:
    raise InputError('--models is empty; expected rmc1, rmc2, rmc3 or NAME=DIR')
  return found


def _specs(flags: Mapping[str, Any]) -> list[Spec]:
  folders = _folders(_names(flags['models']))
  storages = list(dict.fromkeys(_names(flags['storage'])))
  if None not in folders.values():
    for flag in ('storage', 'scale'):
      if flags[flag]:
        raise InputError(
          f'--{flag}={flags[flag]} is for rmc1, rmc2 and rmc3, and --models '
          'has none of them; leave it out'
        )
  scale = 1.0 if flags['scale'] is None else flags['scale']
  _positive('scale', scale)
  for storage in storages:
    if storage not in STORAGES:
      raise InputError(
        f'--storage={flags["storage"]}: {storage!r} is none; expected of '
        f'{", ".join(STORAGES)}'
      )
  specs = []
  for name, folder in folders.items():
    kept = [AS_STORED] if folder else storages or ['float32']
    mark = mark_of(folder) if folder else ''
    specs += [Spec(name, folder, storage, scale, mark) for storage in kept]
  return specs


def _whole(flag: str, words: Sequence[str], most: int) -> list[int]:
  """Distinct whole numbers of 1 or more, rising."""
  for word in words:
    if not word.isdecimal() or not 1 <= int(word) <= most:
      raise InputError(
        f'--{flag}={",".join(words)}: expected numbers in 1 ... {most}'
      )
  if not words:
    raise InputError(f'--{flag} is empty; expected numbers, such as 1,2')
  return sorted({int(word) for word in words})


def _cores(text: str | None) -> list[tuple[int, ...]]:
  """Groups of cores, as many in each."""
  if not hasattr(os, 'sched_setaffinity'):
    raise InputError(
      'this system binds no process to cores (os.sched_setaffinity), and '
      'engines that move between cores cannot be compared; run it on Linux'
    )
  there = sorted(os.sched_getaffinity(0))
  if text is None:
    return [(core,) for core in there]
  groups = [word.split('+') for word in _names(text)]
  words = [word for group in groups for word in group]
  known = list(map(str, there))
  for word in words:
    if word not in known:
      raise InputError(
        f'--cores={text}: {word!r} is no core of this process; there are '
        f'{", ".join(known)}'
      )
  if not groups or len(set(words)) < len(words):
    raise InputError(
      f'--cores={text}: expected distinct cores, such as {known[0]}'
    )
  if len({len(group) for group in groups}) > 1:
    raise InputError(
      f'--cores={text}: engines have different numbers of cores, and could not '
      'be compared; give each as many'
    )
  return [tuple(map(int, group)) for group in groups]


def _split(split: int | None, cores: Sequence[tuple[int, ...]]) -> int:
  """Most items of a piece of a query."""
  several = len(cores[0]) > 1
  if split is None:
    return _SPLIT if several else LARGEST
  if not several:
    raise InputError(
      f'--split={split}: engines have one core each, which takes whole '
      'queries; leave it out, or give engines several, as in --cores=0+1'
    )
  if not 1 <= split <= LARGEST:
    raise InputError(f'--split={split}: expected 1 ... {LARGEST}')
  return split


def _bounds(
  flags: Mapping[str, Any], specs: Sequence[Spec]
) -> dict[str, float]:
  """The target of each model, in seconds."""
  names = list(dict.fromkeys(spec.name for spec in specs))
  if flags['sla_ms'] is None:
    if flags['rate'] is None:
      raise InputError(
        'give --sla_ms=MS, the target of the latency, to look for the highest '
        'rate that keeps it; or --rate=QPS, to measure latencies'
      )
    return dict.fromkeys(names, math.inf)
  words = _names(flags['sla_ms'])
  try:
    found = [float(word) / 1e3 for word in words]
  except ValueError:
    found = []
  if not found or not all(0 < x < math.inf for x in found):
    raise InputError(
      f'--sla_ms={flags["sla_ms"]}: expected numbers of ms above 0'
    )
  if len(found) == 1:
    found *= len(names)
  if len(found) != len(names):
    raise InputError(
      f'--sla_ms={flags["sla_ms"]}: {len(found)} targets for {len(names)} '
      'models; give one for all, or one for each'
    )
  return dict(zip(names, found, strict=True))


def wanted_of(flags: Mapping[str, Any]) -> Wanted:
  """What flags ask for.

  Raises:
    InputError: a flag has a value that it cannot have, or none that it needs.
  """
  specs, cores = _specs(flags), _cores(flags['cores'])
  if flags['rate'] is not None:
    _positive('rate', flags['rate'])
  if not 0 < flags['percentile'] < 100:
    raise InputError(
      f'--percentile={flags["percentile"]:g}: expected more than 0 and less '
      'than 100'
    )
  if not 0 <= flags['exponent'] <= STEEPEST:
    raise InputError(
      f'--exponent={flags["exponent"]:g}: expected 0 ... {STEEPEST:g}'
    )
  if flags['seed'] < 0:
    raise InputError(f'--seed={flags["seed"]}: expected 0 or more')
  return Wanted(
    specs=specs,
    copies=_whole('copies', _names(flags['copies']), _MOST),
    cores=cores,
    sizes=read_sizes(flags['sizes']),
    split=_split(flags['split'], cores),
    exponent=flags['exponent'],
    rate=flags['rate'],
    bounds=_bounds(flags, specs),
    percent=flags['percentile'],
    seconds=_positive('seconds', flags['seconds'], 3600),
    seed=flags['seed'],
  )
