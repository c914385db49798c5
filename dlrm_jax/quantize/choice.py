"""How the tables of each feature are kept: what the user asks for."""

import fnmatch
from collections.abc import Sequence

from dlrm_jax.build.storages import Choice
from dlrm_jax.embedding.low_precision import STORAGES
from dlrm_jax.errors import InputError


def read_choice(text: str, features: Sequence[str], before: Choice) -> Choice:
  """The storages that --tables asks for.

  Args:
    text: a storage for all, or patterns of features with one each, of which the
      first that fits counts, as in 'C3=int4,*=int8'.
    features: names of all sparse features.
    before: their storages now, which stay where no pattern fits.

  Raises:
    InputError: there is no such storage, a pattern fits no feature, or
      only such as earlier ones fit.

  >>> read_choice('b=int4,*=int8', ['a', 'b'], {})
  {'a': 'int8', 'b': 'int4'}
  """
  chosen: dict[str, str] = {}
  for part in text.split(','):
    pattern, equals, storage = part.rpartition('=')
    if storage not in STORAGES:
      raise InputError(
        f'--tables={text}: {storage!r} is no storage; expected one of '
        f'{", ".join(STORAGES)}, or FEATURE=STORAGE,...'
      )
    fitting = [x for x in features if fnmatch.fnmatchcase(x, pattern or '*')]
    if equals and not fitting:
      raise InputError(
        f'--tables={text}: no feature is named {pattern}; there are '
        f'{", ".join(features)}'
      )
    if equals and chosen.keys() >= {*fitting}:
      raise InputError(
        f'--tables={text}: {part} has no effect, as patterns before it fit all '
        f'its features; put it first'
      )
    for feature in fitting:
      chosen.setdefault(feature, storage)
  return {x: chosen.get(x, before.get(x, 'float32')) for x in features}
