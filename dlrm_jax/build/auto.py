"""What a config leaves open, settled before a run: so that it remembers it.

`encoding='auto'`: quality is lost where examples meet, so rows go to the ids
that examples have: over all tables, every id that training saw more than t
times has a row of its own, for the least t that the budget allows.
Vocabularies are sorted by falling count, so these are the first rows of each;
the other ids share them, told apart by a quotient.

A user's partitions get the digest of what they are now.
"""

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.build.partitions import build_partition
from dlrm_jax.build.wanted import Wanted, options_of, wanted_tables
from dlrm_jax.embedding.sizes import NotFalling, Seen, frequent_rows
from dlrm_jax.errors import InputError
from dlrm_jax.run.description import Data

_PLAIN = {'encoding': 'plain'}


def _seen(data: Data, features: list[str]) -> Seen:
  """How often training saw each id of the table that features share."""
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
  """Parameters of a table with so many rows, and of its quotients."""
  if rows >= wanted.ids:
    return wanted.dim * wanted.ids
  return wanted.dim * (rows + -(-wanted.ids // rows))


def _by_frequency(
  wanted: list[Wanted], seen: list[Seen]
) -> list[dict[str, Any]]:
  """Fields of each table, of which all have more ids than their threshold."""
  # With fewer rows, quotients would take more than remainders.
  fewest = [math.isqrt(w.ids - 1) + 1 for w in wanted]

  def kept(i: int, rows: int) -> int:
    return max(rows, fewest[i])

  def cost(i: int, rows: int) -> int:
    return _cost(wanted[i], kept(i, rows))

  budget = sum(w.budget for w in wanted)
  if not any(w.options['rows'] for w in wanted):
    budget = max(budget, sum(cost(i, 1) for i in range(len(wanted))))
  words: list[dict[str, Any]] = []
  for i, rows in enumerate(frequent_rows(seen, budget, cost)):
    own, plain = kept(i, rows), wanted[i].ids * wanted[i].dim
    if _cost(wanted[i], own) >= plain:
      words.append(_PLAIN)
    else:
      words.append(
        {
          'encoding': 'quotient_remainder',
          'combine': 'mult',
          'buckets': (own, 0),
        }
      )
  return words


def _auto(
  wanted: list[Wanted], data: Data, readers: Mapping[str, list[str]]
) -> dict[str, dict[str, Any]]:
  """Fields of each table that has 'auto', by its name."""
  auto = [w for w in wanted if w.options['encoding'] == 'auto']
  found = {w.name: _PLAIN for w in auto}
  large = [w for w in auto if not w.small]
  if large:
    seen = [_seen(data, readers[w.name]) for w in large]
    words = _by_frequency(large, seen)
    found |= {w.name: word for w, word in zip(large, words, strict=True)}
  return found


def _partitions(wanted: list[Wanted]) -> dict[str, dict[str, Any]]:
  """Fields of each table that has partitions of a user's, by its name."""
  found = {}
  for w in wanted:
    source = str(w.options['partitions'])
    if w.options['encoding'] == 'partitions' and not w.small:
      try:
        digest = build_partition(source, w.ids).digest
      except InputError as error:
        raise InputError(
          f'config.tables.partitions (feature {w.feature}): {error}'
        ) from None
      found[w.name] = {'partitions': f'{source.partition("#")[0]}#{digest}'}
  return found


def settle(config: ConfigDict, data: Data) -> ConfigDict:
  """The config with the fields of single features that follow from the data.

  Args:
    config: left as it is.
    data: whose counts decide.

  Raises:
    InputError: the data has no counts, or the budget is too small.
  """
  options = options_of(config, data.schema)
  readers: dict[str, list[str]] = {}
  for feature, own in options.items():
    readers.setdefault(own['table'], []).append(feature)
  wanted = wanted_tables(config, data.schema)
  words = _auto(wanted, data, readers) | _partitions(wanted)
  given = config.tables.features.to_dict()
  settled = config.copy_and_resolve_references()
  with settled.unlocked():
    for name, word in words.items():
      for feature in readers[name]:
        settled.tables.features[feature] = given.get(feature, {}) | word
  return settled
