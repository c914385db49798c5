"""The planted truth of a synthetic click log: ids -> logits.

    logit = bias + sum_n f_n(dense_n) + sum_f b_f(bag_f)
                 + sum_k <u_2k(bag_2k), u_2k+1(bag_2k+1)>

`f_n` is linear, `|x|` or `sin 2x`. `b` and `u` of a bag are the sums of its
ids' numbers and vectors. Every `b` and `u` has mean zero under Zipf's law (see
`power_law`). So the interactions add nothing to the effect of a single feature,
and a model without interactions can learn none of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.traces import power_law


@dataclasses.dataclass(frozen=True)
class Strength:
  """Sizes of the parts of the logit.

  Attributes:
    rank: length of the planted vectors.
    bias: constant part of the logit.
    additive: standard deviation of the sum of all effects of single features.
    interaction: standard deviation of the sum of all interactions.
  """

  rank: int = 2
  bias: float = -1.5
  additive: float = 1.2
  interaction: float = 1.2


class Truth(NamedTuple):
  """Planted effects.

  Attributes:
    bias: constant part of the logit.
    dense: factor of each dense effect, f32[N].
    tables: number and vector of each id, F of f32[R + 1, 1 + rank]. The last
      row is 0; PAD, which is -1, selects it.
  """

  bias: float
  dense: np.ndarray
  tables: tuple[np.ndarray, ...]


class Logits(NamedTuple):
  """The planted logits of n examples, in two parts to be added.

  Attributes:
    additive: bias and effects of single features, f32[n].
    interaction: effects of pairs of features, f32[n].
  """

  additive: np.ndarray
  interaction: np.ndarray


def probability(logits: Logits) -> np.ndarray:
  """The planted probabilities of n examples, f64[n]."""
  total = (logits.additive + logits.interaction).astype(np.float64)
  return np.exp(-np.logaddexp(0, -total))


def dense_effects(dense: np.ndarray) -> np.ndarray:
  """Effects, of mean 0 and variance 1, of standard normal values f32[n, N]."""
  effects = dense.copy()
  mean, variance = np.sqrt(2 / np.pi), 1 - 2 / np.pi
  effects[:, 1::3] = (np.abs(dense[:, 1::3]) - mean) / np.sqrt(variance)
  variance = (1 - np.exp(-8)) / 2
  effects[:, 2::3] = np.sin(2 * dense[:, 2::3]) / np.sqrt(variance)
  return effects


def _standardised(normal: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Gives columns, f64[R, n], mean 0 and covariance 1 under weights f64[R]."""
  centred = normal - weights @ normal
  covariance = (centred * weights[:, None]).T @ centred
  return np.linalg.solve(np.linalg.cholesky(covariance), centred.T).T


def plant(
  strength: Strength,
  dense: int,
  tables: Sequence[int],
  lengths: Sequence[float],
  seed: int | Sequence[int],
) -> Truth:
  """Draws the effects of the dense features and of the ids of all tables.

  All features have equal shares of the additive variance, and all pairs equal
  shares of the variance of the interactions. The variance of a bag's sum is
  that of one id times the mean number of ids.

  Args:
    strength: sizes of the parts of the logit.
    dense: number of dense features.
    tables: number of rows of each table.
    lengths: mean number of ids in a bag of each feature.
    seed: seed of all effects.
  """
  rng = np.random.default_rng(seed)
  effect = strength.additive / np.sqrt(dense + len(tables))
  spread = np.sqrt(max(len(tables) // 2, 1) * strength.rank)
  scale = [effect] + [np.sqrt(strength.interaction / spread)] * strength.rank
  planted = []
  for rows, length in zip(tables, lengths, strict=True):
    normal = rng.standard_normal((rows, len(scale)))
    table = _standardised(normal, power_law.probabilities(rows, 1.0)) * scale
    table /= np.sqrt(length)
    planted.append(np.pad(table, ((0, 1), (0, 0))).astype(np.float32))
  signs = rng.choice([-1.0, 1.0], dense)
  effects = (effect * signs).astype(np.float32)
  return Truth(strength.bias, effects, tuple(planted))


def logits_of(
  truth: Truth, dense: np.ndarray, bags: Sequence[np.ndarray]
) -> Logits:
  """Logits of dense features f32[n, N] and ids, F of i32[hotness, n]."""
  sums = [
    table[ids[0]] if len(ids) == 1 else table[ids].sum(axis=0)
    for table, ids in zip(truth.tables, bags, strict=True)
  ]
  additive = dense_effects(dense) @ truth.dense + np.float32(truth.bias)
  interaction = np.zeros_like(additive)
  for bag in sums:
    additive += bag[:, 0]
  for left, right in zip(sums[0::2], sums[1::2], strict=False):
    interaction += np.einsum('nr,nr->n', left[:, 1:], right[:, 1:])
  return Logits(additive, interaction)
