"""The columns of a model's log, as a person fills them in."""

from typing import NamedTuple

from dlrm_jax.scoring.intake import Intake
from dlrm_jax.scoring.learned import values_of

BETWEEN = '|'
"""What is between the values of a bag that has no separator of its own."""


class Column(NamedTuple):
  """A column that a person fills in.

  Attributes:
    name: its name.
    example: a value of it.
    separator: what is between the values of a bag; '': it is none.
  """

  name: str
  example: str
  separator: str


def columns_of(intake: Intake) -> list[Column]:
  """The columns of a model, with frequent values."""
  columns = {
    source.column: Column(source.column, '1', '')
    for source in intake.schema.dense
  }
  for source, coder in zip(intake.schema.sparse, intake.coders, strict=True):
    name, in_rows = source.feature.name, source.feature.ids == 'rows'
    base = 0 if in_rows else max(coder.base, 0)
    separator = (source.separator or BETWEEN) * source.feature.bag
    example = ''
    if name in intake.vocabularies or in_rows:
      values = values_of(intake, name, base, min(base + 2, coder.rows))
      example = next((str(value) for value in values if value is not None), '')
    columns.setdefault(source.column, Column(source.column, example, separator))
    if source.weights:
      weight = '1' if example else ''
      columns[source.weights] = Column(source.weights, weight, separator)
  return list(columns.values())
