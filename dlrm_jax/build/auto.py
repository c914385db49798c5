"""Replaces open choices of a config by definite ones, which a run stores.

`encoding='auto'` becomes 'plain' or 'quotient_remainder'. Sharing a row costs
quality in proportion to the examples that share it. So each id that training
saw more than t times has a row of its own, with the least t, over all tables,
that the budget allows. Vocabularies are sorted by falling count, so these are
the first rows of each table; the other ids share them and are distinguished by
a quotient.

The name of a user's partitions gets the digest of their present buckets.
"""

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.build.partitions import build_partition
from dlrm_jax.build.wanted import Wanted, options_of, wanted_tables
from dlrm_jax.data.schema import Data
from dlrm_jax.embedding.sizes import NotFalling, Seen, frequent_rows
from dlrm_jax.errors import InputError

_PLAIN = {'encoding': 'plain'}


def _seen(data: Data, features: list[str]) -> Seen:
  """How often training saw each id of a table that these features share."""
  return functools.reduce(operator.add, [_seen_by(data, f) for f in features])


def _seen_by(data: Data, feature: str) -> Seen:
  """How often training saw each id of a feature."""
  pieces = data.count_pieces(feature)
  if pieces is None:
    raise InputError(
      f'config.tables.encoding (feature {feature}) is auto, but the data '
      f'has no counts of its ids: they are stored with a vocabulary '
      f'(`dlrm_jax.prepare` without --hash_rows); or name an encoding'
    )
  try:
    return Seen.of(pieces)
  except NotFalling:
    raise InputError(
      f'config.tables.encoding (feature {feature}) is auto, which needs rows '
      'in the order of how often they are seen; prepare the set with '
      '--mode=frequency'
    ) from None


def _cost(wanted: Wanted, rows: int) -> int:
  """Parameters of a table with `rows` rows and of its table of quotients."""
  if rows >= wanted.ids:
    return wanted.dim * wanted.ids
  return wanted.dim * (rows + -(-wanted.ids // rows))


def _by_frequency(
  wanted: list[Wanted], seen: list[Seen]
) -> list[dict[str, Any]]:
  """The definite fields of each table, in the order of `wanted`.

  Args:
    wanted: tables that have more ids than their threshold.
    seen: how often training saw the ids of each table.
  """
  # With fewer rows than this, there would be more quotients than rows.
  fewest = [math.isqrt(w.ids - 1) + 1 for w in wanted]

  def kept(i: int, rows: int) -> int:
    return max(rows, fewest[i])

  def cost(i: int, rows: int) -> int:
    return _cost(wanted[i], kept(i, rows))

  budget = sum(w.budget for w in wanted)
  if not any(w.options['rows'] for w in wanted):
    budget = max(budget, sum(cost(i, 1) for i in range(len(wanted))))
  fields: list[dict[str, Any]] = []
  for i, rows in enumerate(frequent_rows(seen, budget, cost)):
    own, plain = kept(i, rows), wanted[i].ids * wanted[i].dim
    if _cost(wanted[i], own) >= plain:
      fields.append(_PLAIN)
    else:
      fields.append(
        {
          'encoding': 'quotient_remainder',
          'combine': 'mult',
          'buckets': (own, 0),
        }
      )
  return fields


def _auto(
  wanted: list[Wanted], data: Data, readers: Mapping[str, list[str]]
) -> dict[str, dict[str, Any]]:
  """The definite fields of each table whose encoding is auto, by its name."""
  auto = [w for w in wanted if w.options['encoding'] == 'auto']
  definite = {w.name: _PLAIN for w in auto}
  large = [w for w in auto if not w.small]
  if large:
    seen = [_seen(data, readers[w.name]) for w in large]
    fields = _by_frequency(large, seen)
    definite |= {w.name: own for w, own in zip(large, fields, strict=True)}
  return definite


def _partitions(wanted: list[Wanted]) -> dict[str, dict[str, Any]]:
  """The field `partitions` with its digest, by name of the table."""
  definite = {}
  for w in wanted:
    source = str(w.options['partitions'])
    if w.options['encoding'] == 'partitions' and not w.small:
      try:
        digest = build_partition(source, w.ids).digest
      except InputError as error:
        raise InputError(
          f'config.tables.partitions (feature {w.feature}): {error}'
        ) from None
      definite[w.name] = {'partitions': f'{source.partition("#")[0]}#{digest}'}
  return definite


def settle(config: ConfigDict, data: Data) -> ConfigDict:
  """A copy of the config without open choices.

  Args:
    config: the config, which is not changed.
    data: the data, whose counts of ids decide.

  Raises:
    InputError: the data has no counts, or the budget is too small.
  """
  options = options_of(config, data.schema)
  readers: dict[str, list[str]] = {}
  for feature, own in options.items():
    readers.setdefault(own['table'], []).append(feature)
  wanted = wanted_tables(config, data.schema)
  definite = _auto(wanted, data, readers) | _partitions(wanted)
  features = config.tables.features.to_dict()
  settled = config.copy_and_resolve_references()
  with settled.unlocked():
    for name, fields in definite.items():
      for feature in readers[name]:
        settled.tables.features[feature] = features.get(feature, {}) | fields
  return settled
