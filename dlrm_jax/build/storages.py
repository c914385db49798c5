"""The storages of tables that a config names, and configs that name others."""

import copy
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

Choice = Mapping[str, str]
"""Name of a storage for each sparse feature."""


def storages_of(config: ConfigDict, features: Sequence[str]) -> Choice:
  """The storages that a config names."""
  own = config.tables.features.to_dict()
  common = config.tables.storage
  return {x: own.get(x, {}).get('storage', common) for x in features}


def with_storages(config: ConfigDict, choice: Choice) -> ConfigDict:
  """A copy of a config that names other storages."""
  config = copy.deepcopy(config)
  own = config.tables.features.to_dict()
  (common,) = {*choice.values()} if len({*choice.values()}) == 1 else ('',)
  config.tables.storage = common or 'float32'
  for feature, storage in choice.items():
    fields = {k: v for k, v in own.get(feature, {}).items() if k != 'storage'}
    if not common:
      fields['storage'] = storage
    own[feature] = fields
  kept = {feature: fields for feature, fields in own.items() if fields}
  config.tables.features = ConfigDict(kept)
  return config
