"""Storages within a budget of bytes: those that cost the least log-loss.

What a storage costs is estimated from the gradient g of an example's loss
towards the vector of a feature, and the error e of that vector: near an optimum
the expected loss grows by half the mean of (g e)^2, as the Fisher information
is the curvature there. So rows that are read often, and features that the
model heeds, count as much as they do in the examples.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.build.storages import Choice
from dlrm_jax.embedding.features import Feature
from dlrm_jax.errors import InputError
from dlrm_jax.quantize.model import Model
from dlrm_jax.text import human
from dlrm_jax.training.heads import summed_loss
from dlrm_jax.training.state import TrainState

ByRole = Mapping[str, jax.Array]


class Option(NamedTuple):
  """A storage for features that share tables.

  Attributes:
    storage: its name.
    bytes: of the rows of their tables.
    loss: what the log-loss is expected to grow by.
  """

  storage: str
  bytes: int
  loss: float


def column_of(feature: Feature) -> str:
  """The sparse column that a feature reads."""
  return feature.column or feature.name


def groups_of(features: Sequence[Feature]) -> list[tuple[str, ...]]:
  """Columns whose features share tables, and so are kept alike."""
  groups: list[tuple[list[str], set[str]]] = []
  for feature in features:
    columns = [column_of(feature)]
    tables = {table.name for table in feature.encoding.tables}
    for group in [g for g in groups if columns[0] in g[0] or g[1] & tables]:
      groups.remove(group)
      columns, tables = [*group[0], *columns], tables | group[1]
    groups.append((columns, tables))
  return [tuple(dict.fromkeys(columns)) for columns, _ in groups]


def bytes_of(features: Sequence[Feature], columns: Sequence[str]) -> int:
  """Bytes of the rows of the tables that some columns read."""
  tables = {
    table.name: table.rows * table.storage.row_bytes(table.dim)
    for feature in features
    if column_of(feature) in columns
    for table in feature.encoding.tables
  }
  return sum(tables.values())


def expected_losses(
  before: Model,
  batches: Sequence[Batch],
  storages: Sequence[str],
  kept_as: Callable[[str], Model],
  report: Callable[[], object],
) -> dict[str, dict[str, float]]:
  """What the log-loss is expected to grow by, by storage and column.

  Args:
    before: the model in float32.
    batches: examples, on the devices.
    storages: names of storages.
    kept_as: gives the model with all tables in a storage.
    report: called after each storage.
  """
  task = before.run.task
  network, heads = task.network, task.heads

  @jax.jit
  def gradients(state: TrainState, batch: Batch) -> tuple[ByRole, ByRole]:
    vectors = network.encoded(state.layers, state.tables, batch.inputs)

    def loss(vectors: ByRole) -> jax.Array:
      logits = network.of_encoded(state.layers, batch.inputs, vectors)
      ones = [jnp.ones(())] * len(heads)  # a sum, not a mean
      return summed_loss(heads, logits, batch, ones)

    return vectors, jax.grad(loss)(vectors)

  found = {}
  examples = sum(float(jnp.sum(batch.weights)) for batch in batches)
  for storage in storages:
    after = kept_as(storage)
    other = after.run.task.network

    @jax.jit
    def squares(
      state: TrainState, batch: Batch, vectors: ByRole, grads: ByRole
    ) -> ByRole:
      kept = other.encoded(state.layers, state.tables, batch.inputs)  # noqa: B023
      return {
        role: jnp.sum(jnp.sum(grads[role] * (x - vectors[role]), -1) ** 2, 0)
        for role, x in kept.items()
      }

    total: dict[str, float] = {}
    for batch in batches:
      each = squares(after.state, batch, *gradients(before.state, batch))
      for column, value in _by_column(task.collection.features, each):
        total[column] = total.get(column, 0.0) + value / 2 / examples
    found[storage] = total
    report()
  return found


def _by_column(
  features: Sequence[Feature], by_role: ByRole
) -> Iterator[tuple[str, float]]:
  for role, values in by_role.items():
    names = [column_of(f) for f in features if f.role == role]
    yield from zip(names, np.asarray(values).tolist(), strict=True)


def cheapest(
  options: Mapping[tuple[str, ...], Sequence[Option]], budget: int
) -> Choice:
  """The options of least loss whose bytes are within a budget, nearly.

  From the largest options on, the step is taken that costs the least loss a
  byte that it saves, until the budget is met.

  Args:
    options: of each group of columns; the first is the largest.
    budget: bytes of all tables, at most.

  Raises:
    InputError: the smallest options need more.

  >>> a = [Option('float32', 64, 0.0), Option('int8', 24, 0.1)]
  >>> b = [Option('float32', 64, 0.0), Option('int8', 24, 0.5)]
  >>> cheapest({('a',): a, ('b',): b}, 100)
  {'a': 'int8', 'b': 'float32'}
  """
  chosen = {group: _hull(found)[0] for group, found in options.items()}
  steps = sorted(
    (_slope(a, b), i, group, b)
    for i, (group, found) in enumerate(options.items())
    for hull in [_hull(found)]
    for a, b in itertools.pairwise(hull)
  )
  least = sum(min(o.bytes for o in found) for found in options.values())
  if least > budget:
    raise InputError(
      f'--memory={human(budget)}: with the fewest bits the tables have '
      f'{human(least)}; ask for that or more'
    )
  for _, _, group, option in steps:
    if sum(o.bytes for o in chosen.values()) <= budget:
      break
    chosen[group] = option
  return {
    column: option.storage
    for group, option in chosen.items()
    for column in group
  }


def _slope(a: Option, b: Option) -> float:
  """What a step costs for each byte that it saves."""
  return (b.loss - a.loss) / (a.bytes - b.bytes)


def _hull(options: Sequence[Option]) -> list[Option]:
  """The options worth having, the largest first; slopes rise."""
  hull: list[Option] = []
  for option in sorted(options, key=lambda o: (-o.bytes, o.loss)):
    if hull and option.bytes == hull[-1].bytes:
      continue
    while hull and option.loss <= hull[-1].loss:
      hull.pop()
    while len(hull) > 1 and _slope(hull[-1], option) <= _slope(*hull[-2:]):
      hull.pop()
    hull.append(option)
  return hull
