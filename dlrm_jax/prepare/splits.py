"""Splits in the order of the files: shares such as '6/7' -> row numbers."""

import itertools
import math
import re
from collections.abc import Mapping
from fractions import Fraction

from dlrm_jax.errors import InputError

DEFAULT = 'train=6/7,validation=1/14,test=1/14'
MOVIELENS_DEFAULT = 'train=0.8,validation=0.1,test=0.1'

_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*', re.ASCII)
_TOLERANCE = Fraction(1, 10**6)


def parse_splits(text: str, train: bool = True) -> dict[str, Fraction]:
  """Reads the option --splits: shares by name, in order.

  Args:
    text: value of the option.
    train: whether a split must be named train.

  Raises:
    InputError: a name or a share is wrong, split train is missing, or the sum
      is not 1.

  >>> parse_splits('train=0.9,test=1/10')
  {'train': Fraction(9, 10), 'test': Fraction(1, 10)}
  """
  shares: dict[str, Fraction] = {}
  for part in text.split(','):
    name, _, share = (x.strip() for x in part.partition('='))
    if not _NAME.fullmatch(name) or name.lower() == 'all' or name in shares:
      raise InputError(
        f'--splits={text}: {name!r} is no name for a split; expected letters, '
        'digits and _, each name once, and not "all"'
      )
    shares[name] = _share(text, name, share)
  if train and 'train' not in shares:
    raise InputError(f'--splits={text}: no split is named train; add train=...')
  total = sum(shares.values())
  if abs(total - 1) > _TOLERANCE:
    raise InputError(
      f'--splits={text}: the shares sum to {float(total):g}; expected 1'
    )
  return shares


def _share(text: str, name: str, share: str) -> Fraction:
  try:
    value = Fraction(share)
  except (ValueError, ZeroDivisionError):
    value = Fraction(0)
  if not 0 < value <= 1:
    raise InputError(
      f'--splits={text}: the share of {name} is {share!r}; expected a number '
      'above 0, such as 0.9 or 6/7'
    )
  return value


def rows_of_splits(
  rows: int, shares: Mapping[str, Fraction]
) -> dict[str, range]:
  """Row numbers of each split, cut at ceil(rows * cumulative share).

  >>> splits = rows_of_splits(45840617, parse_splits(DEFAULT))
  >>> {name: len(rows) for name, rows in splits.items()}
  {'train': 39291958, 'validation': 3274330, 'test': 3274329}
  """
  total = sum(shares.values())
  ends = [
    math.ceil(rows * share / total)
    for share in itertools.accumulate(shares.values())
  ]
  starts = [0, *ends[:-1]]
  return {
    name: range(start, end)
    for name, start, end in zip(shares, starts, ends, strict=True)
  }
