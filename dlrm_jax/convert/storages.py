"""The storages of quantised tables that are taken from a file, or given."""

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from dlrm_jax.build.storages import storages_of, with_storages
from dlrm_jax.convert.packed import PackedTable
from dlrm_jax.convert.program import Found
from dlrm_jax.embedding.low_precision import Codes
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.errors import InputError


def config_as_in(
  found: Found, config: ConfigDict, columns: Sequence[str]
) -> tuple[Found, ConfigDict]:
  """What a file holds, and a config whose tables are kept as in the file.

  Where bytes may be of several storages, the config says of which.

  Args:
    found: what the file holds; its tables are first, in the order of columns.
    config: all settings.
    columns: names of the sparse columns.

  Raises:
    InputError: the config names another storage, it is open which one a table
      has, or a scale is not finite.
  """
  choice = dict(storages_of(config, columns))
  tensors = dict(found.tensors)
  for column, (name, table) in zip(
    columns, found.tensors.items(), strict=False
  ):
    if not isinstance(table, PackedTable):
      continue
    if choice[column] != FLOAT32.name:
      table = _named(table, choice[column], column)
    table.check()
    tensors[name], choice[column] = table, table.kind
  if choice == storages_of(config, columns):
    return found._replace(tensors=tensors), config
  return found._replace(tensors=tensors), with_storages(config, choice)


def _named(table: PackedTable, storage: str, column: str) -> PackedTable:
  """A table whose storage the config names."""
  fits = tuple(x for x in table.fits if x.name == storage)
  if not fits:
    raise InputError(
      f'config.tables.storage (feature {column}) is {storage}; {table.name} is '
      f'{" or ".join(table.names)} by its bytes; leave the field out'
    )
  return dataclasses.replace(table, fits=fits)


def columns_misfit(network: Network) -> str:
  """Why rows of codes can't be moved with their bits; '' where they can."""
  for feature in network.collection.features:
    for table in feature.encoding.tables:
      if isinstance(table.storage, Codes) and table.placement.columns > 1:
        return (
          f'tables.placement (feature {feature.name}) cuts the columns of a '
          f'table of {table.storage.name}, and each block has a scale of its '
          f'own; expected one without blocks of columns, such as row_wise'
        )
  return ''


def said(storages: Mapping[str, str]) -> str:
  """The tables of each storage, in a line.

  Args:
    storages: name of a storage for each column.

  >>> said({'C1': 'int8', 'C2': 'int4', 'C3': 'int8'})
  'int8 C1, C3; int4 C2'
  """
  columns: dict[str, list[str]] = {}
  for column, storage in storages.items():
    columns.setdefault(storage, []).append(column)
  return '; '.join(f'{name} {", ".join(of)}' for name, of in columns.items())
