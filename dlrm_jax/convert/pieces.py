"""The layout of a file in which each table is an array of its own."""

from collections.abc import Iterable

from dlrm_jax.embedding.layout import Address, Layout, Stack, StackKind
from dlrm_jax.embedding.table import Table


def apart(tables: Iterable[Table]) -> Layout:
  """The layout in which a table is a stack of its name, its rows in order."""
  sizes = {table.name: (table.rows, table.dim) for table in tables}
  return Layout(
    shards=1,
    stacks={
      name: Stack(StackKind.ROWS, 1, rows, dim)
      for name, (rows, dim) in sizes.items()
    },
    blocks={
      name: (Address(name, 0, 1, 0, 0, dim),)
      for name, (_, dim) in sizes.items()
    },
    rows={name: rows for name, (rows, _) in sizes.items()},
  )
