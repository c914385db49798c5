"""Sizes of queries: how many items a query asks to rank.

Named laws are those of the load generator of DeepRecSys (Gupta et al., arXiv
2001.02772: normal and log-normal, cut to 1 ... 1,024 and rounded down) and of
MLPerf's inference benchmark of DLRM, whose quantiles have equal shares.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlrm_jax.errors import InputError

MOST = 1024
"""Most items of a query of a named law."""

_MLPERF = (100,) * 2 + (200,) * 12 + (300,) * 2 + (400, 500, 600, 700)
_LARGEST = 1 << 20  # of a file


class Sizes(NamedTuple):
  """A distribution of sizes.

  Attributes:
    name: as the flag names it.
    draw: draws so many sizes, i64[n].
  """

  name: str
  draw: Callable[[np.random.Generator, int], np.ndarray]


def _cut(sizes: np.ndarray) -> np.ndarray:
  return np.clip(sizes, 1, MOST).astype(np.int64)


_LAWS: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
  'normal': lambda rng, n: _cut(rng.normal(165, 16, n)),
  'lognormal': lambda rng, n: _cut(rng.lognormal(5.1, 0.2, n)),
  'mlperf': lambda rng, n: rng.choice(np.array(_MLPERF), n),
}

HELP = (
  'items of a query: normal, lognormal, mlperf, a number, or a file with a '
  'size on each line, drawn with equal chances'
)
"""Help of the flag that `read_sizes` reads."""


def read_sizes(text: str, option: str = '--sizes') -> Sizes:
  """The distribution that a flag names.

  Args:
    text: normal, lognormal, mlperf, a whole number, or the path of a file with
      a size on each line, which are drawn with equal chances.
    option: the flag, for messages.

  Raises:
    InputError: there is no such law or file, or a line is no size.
  """
  if text in _LAWS:
    return Sizes(text, _LAWS[text])
  if text.isdecimal():
    fixed = _size(text, f'{option}={text}')
    return Sizes(text, lambda rng, n: np.full(n, fixed))
  path = Path(text)
  try:
    lines = path.read_text().rstrip().splitlines()
  except (OSError, ValueError) as error:
    why = error.strerror if isinstance(error, OSError) else 'no text'
    raise InputError(
      f'{option}={text}: cannot be read: {why}; expected '
      f'{", ".join(_LAWS)}, a number, or a file with a size on each line'
    ) from None
  if not lines:
    raise InputError(f'{path}: empty; expected a size on each line')
  sizes = np.array(
    [_size(x.strip(), f'{path}, line {n}') for n, x in enumerate(lines, 1)]
  )
  return Sizes(text, lambda rng, n: rng.choice(sizes, n))


def _size(word: str, where: str) -> int:
  """A size; raises an `InputError` that names its place."""
  if not word.isdecimal() or not 1 <= int(word) <= _LARGEST:
    raise InputError(
      f'{where}: {word!r} is no number of items; expected 1 ... {_LARGEST:,}'
    )
  return int(word)
