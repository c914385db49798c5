"""`encoding='auto'`: which tables get smaller, by how often ids are seen.

Quality is lost where examples meet, so rows go to the ids that examples have:
over all tables, every id that training saw more than t times has a row of its
own, for the least t that the budget allows. Vocabularies are sorted by
falling count, so these are the first rows of each; the other ids share them,
told apart by a quotient.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dlrm_jax.build_tables import options_of
from dlrm_jax.embedding.sizes import frequent_rows
from dlrm_jax.errors import InputError
from dlrm_jax.training.run import Data

_PLAIN = {'encoding': 'plain'}


def _counts(
  data: Data, features: list[str], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, np.ndarray]:
  """How often training saw each id of each table."""
  found: dict[str, np.ndarray] = {}
  for feature in features:
    counts = data.counts(feature)
    if counts is None:
      raise InputError(
        f'config.tables.encoding (feature {feature}) is auto, but the data '
        f'has no counts of its ids: they are stored with a vocabulary '
        f'(`dlrm_jax.prepare` without --hash_rows); or name an encoding'
      )
    name = options[feature]['table']
    before = found.get(name, np.zeros(0))
    size = max(len(before), len(counts))
    found[name] = np.pad(before, (0, size - len(before)))
    found[name][: len(counts)] += counts
  return found


def _cost(ids: int, rows: int, dim: int) -> int:
  """Parameters of a table with so many rows, and of its quotients."""
  return dim * ids if rows >= ids else dim * (rows + -(-ids // rows))


def settle(config: ConfigDict, data: Data) -> ConfigDict:
  """The config with an encoding for each feature that has 'auto'.

  Args:
    config: left as it is.
    data: whose counts decide.

  Raises:
    InputError: the data has no counts, or the budget is too small.
  """
  options, dim = options_of(config, data.schema), config.model.dim
  features = [n for n, o in options.items() if o['encoding'] == 'auto']
  if not features:
    return config
  counts = _counts(data, features, options)
  words = _words(counts, options, dim)
  settled = config.copy_and_resolve_references()
  given = config.tables.features.to_dict()
  with settled.unlocked():
    for feature in features:
      word = words.get(options[feature]['table'], _PLAIN)
      settled.tables.features[feature] = given.get(feature, {}) | word
  return settled


def _words(
  counts: Mapping[str, np.ndarray],
  options: Mapping[str, Mapping[str, Any]],
  dim: int,
) -> dict[str, dict[str, Any]]:
  """Fields of each table above its threshold."""
  of = {o['table']: o for o in options.values()}
  large = [n for n, x in counts.items() if len(x) > of[n]['threshold']]
  budget = sum(
    dim * (of[n]['rows'] or int(len(counts[n]) / of[n]['compression']))
    for n in large
  )

  def kept(i: int, rows: int) -> int:
    # With fewer rows quotients would take more than remainders.
    return max(rows, math.isqrt(len(counts[large[i]]) - 1) + 1)

  def cost(i: int, rows: int) -> int:
    return _cost(len(counts[large[i]]), kept(i, rows), dim)

  if not any(of[n]['rows'] for n in large):
    budget = max(budget, sum(cost(i, 1) for i in range(len(large))))
  rows = frequent_rows([counts[n] for n in large], budget, cost)
  found = {}
  for i, name in enumerate(large):
    ids, own = len(counts[name]), kept(i, rows[i])
    saves = _cost(ids, own, dim) < ids * dim
    found[name] = _composed(own) if saves else _PLAIN
  return found


def _composed(rows: int) -> dict[str, Any]:
  return {'encoding': 'quotient_remainder', 'buckets': (rows, 0)}
