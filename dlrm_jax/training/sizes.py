"""Sizes of tables, and what encodings save."""

from collections.abc import Sequence
from typing import NamedTuple

from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.training.state import Task


class TableSize(NamedTuple):
  """An embedding table: its features, rows, width and bytes."""

  name: str
  features: Sequence[str]
  rows: int
  dim: int
  bytes: int


def table_sizes(task: Task) -> list[TableSize]:
  """The tables and the bytes of their values."""
  return [
    TableSize(
      name=table.name,
      features=task.collection.readers(table),
      rows=table.rows,
      dim=table.dim,
      bytes=table.rows * table.storage.row_bytes(table.dim),
    )
    for table in task.collection.tables
  ]


class Saving(NamedTuple):
  """What the encodings of a task save.

  Attributes:
    features: whose encoding is not plain.
    parameters: of tables and of the layers of encodings.
    plain: parameters, if every table had a row for each of its ids.
  """

  features: int
  parameters: int
  plain: int


def saving(task: Task) -> Saving:
  """Parameters with and without encodings; a shared table counts once."""
  features, tables = task.collection.features, task.collection.tables
  encodings = {feature.encoding for feature in features}
  layers = sum(encoding.layers() for encoding in encodings)
  return Saving(
    features=sum(not isinstance(f.encoding, Plain) for f in features),
    parameters=sum(t.rows * t.dim for t in tables) + layers,
    plain=sum(encoding.ids * encoding.dim for encoding in encodings),
  )
