"""Dense columns -> the dense features of the model."""

import functools
from collections.abc import Callable

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.vocabulary.columns import Dense

_SMALL = 1 << 16
"""Logarithms of whole numbers below are in a table: five times as fast."""


def _none(name: str, values: np.ndarray) -> np.ndarray:
  del name
  return values.astype(np.float32)


def _log1p(name: str, values: np.ndarray) -> np.ndarray:
  del name
  return _log_of(np.maximum(values, 0), 1)


def _log3(name: str, values: np.ndarray) -> np.ndarray:
  if (least := values.min(initial=0)) <= -3:
    raise InputError(
      f'column {name}: {least:g} has no logarithm of x + 3; expected values '
      'above -3, or another --mode'
    )
  return _log_of(values, 3)


def _log_of(values: np.ndarray, plus: int) -> np.ndarray:
  """log(x + plus), computed in float64 and rounded to float32."""
  if not np.issubdtype(values.dtype, np.integer):
    return np.log(values.astype(np.float64) + plus).astype(np.float32)
  least = 1 - plus
  logs = _logs()[np.clip(values, least, _SMALL - 1 - plus) - least]
  large = np.flatnonzero(values > _SMALL - 1 - plus)
  logs[large] = np.log(values[large].astype(np.float64) + plus)
  return logs


@functools.cache
def _logs() -> np.ndarray:
  return np.log(np.arange(1, _SMALL, dtype=np.float64)).astype(np.float32)


TRANSFORMS: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {
  'none': _none,
  'log1p': _log1p,
  'log3': _log3,
}
"""Transforms by the words of `Dense.transform`; missing values are 0 before."""


def transform(columns: tuple[Dense, ...], frame: pl.DataFrame) -> np.ndarray:
  """Dense columns of n rows -> f32[n, N].

  Raises:
    InputError: a value has no logarithm.
  """
  dense = np.empty((frame.height, len(columns)), np.float32)
  for number, column in enumerate(columns):
    values = frame[column.name].fill_null(0).to_numpy()
    dense[:, number] = TRANSFORMS[column.transform](column.name, values)
  return dense
