"""The layout of a file in which each table is an array of its own."""

from collections.abc import Iterable, Mapping

from dlrm_jax.embedding.layout import Address, Layout, Stack, StackKind
from dlrm_jax.embedding.storage import FLOAT32, Storage
from dlrm_jax.embedding.table import Table


def apart(
  tables: Iterable[Table], storages: Mapping[str, Storage] | None = None
) -> Layout:
  """The layout in which a table is a stack of its name, its rows in order.

  Args:
    tables: the tables.
    storages: how some of them are kept, by name; others are float32.
  """
  sizes = {table.name: (table.rows, table.dim) for table in tables}
  kept = storages or {}
  return Layout(
    shards=1,
    stacks={
      name: Stack(StackKind.ROWS, 1, rows, dim, kept.get(name, FLOAT32))
      for name, (rows, dim) in sizes.items()
    },
    blocks={
      name: (Address(name, 0, 1, 0, 0, dim),)
      for name, (_, dim) in sizes.items()
    },
    rows={name: rows for name, (rows, _) in sizes.items()},
  )
