"""The planted truth of a synthetic click log: ids to logits.

    logit = bias + sum_n f_n(dense_n) + sum_f b_f(bag_f)
                 + sum_k <u_2k(bag_2k), u_2k+1(bag_2k+1)>

`f_n` is linear, `|x|` or `sin 2x`; `b` and `u` of a bag are the sums of its
ids' numbers and vectors. Ids follow Zipf's law (`popularity`). Every `b` and
`u` has mean zero under that law, so that the interactions add nothing to the
effect of any one feature: a model without interactions can learn none of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlrm_jax.traces import power_law


@dataclasses.dataclass(frozen=True)
class Strength:
  """How much of the logit is what.

  Attributes:
    rank: length of the planted vectors.
    bias: the constant part of the logit.
    additive: standard deviation of the effects of single features together.
    interaction: standard deviation of the interactions together.
  """

  rank: int = 2
  bias: float = -1.5
  additive: float = 1.2
  interaction: float = 1.2


class Truth(NamedTuple):
  """What logits are made of.

  Attributes:
    bias: the constant part.
    dense: f32[N], the scale of each dense effect.
    tables: F of f32[R + 1, 1 + rank]: an id's number, then its vector. The
      last row is 0, and PAD, -1, is its index.
  """

  bias: float
  dense: np.ndarray
  tables: tuple[np.ndarray, ...]


class Logits(NamedTuple):
  """The planted logit of examples, in two parts to be added.

  Attributes:
    additive: f32[n], the bias and the effects of single features.
    interaction: f32[n], what only pairs of features tell.
  """

  additive: np.ndarray
  interaction: np.ndarray


def dense_effects(dense: np.ndarray) -> np.ndarray:
  """Standard normal f32[n, N] -> f32[n, N] of mean 0, variance 1 a column."""
  effects = dense.copy()
  mean, variance = np.sqrt(2 / np.pi), 1 - 2 / np.pi
  effects[:, 1::3] = (np.abs(dense[:, 1::3]) - mean) / np.sqrt(variance)
  variance = (1 - np.exp(-8)) / 2
  effects[:, 2::3] = np.sin(2 * dense[:, 2::3]) / np.sqrt(variance)
  return effects


def _standardised(normal: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """f64[R, n] -> f64[R, n]: columns of mean 0, covariance 1 under weights."""
  centred = normal - weights @ normal
  covariance = (centred * weights[:, None]).T @ centred
  return np.linalg.solve(np.linalg.cholesky(covariance), centred.T).T


def plant(
  strength: Strength,
  dense: int,
  tables: Sequence[int],
  hotness: Sequence[int],
  seed: int,
) -> Truth:
  """Draws the effects of `dense` dense features and of each table's ids.

  The additive variance is shared equally by all features, that of the
  interactions by all pairs. A bag's sum has the variance of one id times the
  mean number of ids, which is half the hotness.
  """
  rng = np.random.default_rng(seed)
  effect = strength.additive / np.sqrt(dense + len(tables))
  spread = np.sqrt(max(len(tables) // 2, 1) * strength.rank)
  scale = [effect] + [np.sqrt(strength.interaction / spread)] * strength.rank
  planted = []
  for rows, most in zip(tables, hotness, strict=True):
    normal = rng.standard_normal((rows, len(scale)))
    table = _standardised(normal, power_law.probabilities(rows, 1.0)) * scale
    table /= np.sqrt(1 if most == 1 else most / 2)
    planted.append(np.pad(table, ((0, 1), (0, 0))).astype(np.float32))
  signs = rng.choice([-1.0, 1.0], dense)
  effects = (effect * signs).astype(np.float32)
  return Truth(strength.bias, effects, tuple(planted))


def logits_of(
  truth: Truth, dense: np.ndarray, bags: Sequence[np.ndarray]
) -> Logits:
  """Logits of examples: f32[n, N] and F of i32[hotness, n] -> 2 of f32[n]."""
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
