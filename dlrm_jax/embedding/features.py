"""Sparse features: the columns that they read, their bags, their weights.

Several features may read one column, each with tables of its own: a
factorization machine has a vector and a weight for every id. Features of one
role go to the model together, so they have one width.

A feature of hotness L has one bag of L rows in every stack in which its
encoding reads; or L bags of one row, where the encoding combines the rows of
each id before it pools. Bags of equal length lie side by side.
"""

import dataclasses
import enum
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrm_jax.embedding.bags import Group
from dlrm_jax.embedding.encoding import Encoding
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.errors import InputError
from dlrm_jax.models.shapes import VECTORS


class Pooling(enum.Enum):
  """How the vectors of the ids of a bag become one vector."""

  SUM = 'sum'
  MEAN = 'mean'


@dataclasses.dataclass(frozen=True)
class Feature:
  """A sparse feature of a model.

  Attributes:
    name: name of the feature, unique, for messages.
    encoding: how its ids become rows, and rows a vector. Features whose
      encodings read the same `Table` share it.
    hotness: number of ids an example of the column that it reads.
    pooling: how the vectors of its ids become one; a mean is weighted by
      `Inputs.id_weights`.
    column: name of the sparse column that it reads; None: the column that has
      the feature's own name.
    role: the group of vectors that the model gets the feature's vector in.
  """

  name: str
  encoding: Encoding
  hotness: int = 1
  pooling: Pooling = Pooling.SUM
  column: str | None = None
  role: str = VECTORS

  @property
  def source(self) -> str:
    """Name of the column that the feature reads."""
    return self.name if self.column is None else self.column

  @property
  def bags(self) -> Group:
    """Number and length of its bags an example in each table it reads."""
    if self.encoding.pools_first:
      return Group(1, self.hotness)
    return Group(self.hotness, 1)


def mean_pooled(features: Iterable[Feature]) -> tuple[str, ...]:
  """Names of the columns whose id weights must not be negative."""
  sources = (f.source for f in features if f.pooling is Pooling.MEAN)
  return tuple(dict.fromkeys(sources))


def column_hotness(features: Iterable[Feature]) -> dict[str, int]:
  """Ids an example of each column, in the order that columns have in a batch.

  That is the order in which the features first name them.

  Raises:
    InputError: features that read one column differ in its hotness.
  """
  found: dict[str, int] = {}
  for feature in features:
    if found.setdefault(feature.source, feature.hotness) != feature.hotness:
      raise InputError(
        f'feature {feature.name}: hotness {feature.hotness}; another feature '
        f'reads column {feature.source} with hotness {found[feature.source]}'
      )
  return found


class RoleShape(NamedTuple):
  """The vectors of a role: f32[B, features, width]."""

  features: int
  width: int


def shapes_of_roles(features: Iterable[Feature]) -> dict[str, RoleShape]:
  """Number and width of the vectors of each role.

  Raises:
    InputError: features of one role have vectors of several widths.
  """
  found: dict[str, RoleShape] = {}
  for feature in features:
    width = feature.encoding.dim
    before = found.get(feature.role, RoleShape(0, width))
    if before.width != width:
      raise InputError(
        f'feature {feature.name}: its vector has width {width}; other features '
        f'of role {feature.role} have width {before.width}'
      )
    found[feature.role] = RoleShape(before.features + 1, width)
  return found


class Place(NamedTuple):
  """The bags that one feature has in a stack for one block of a table."""

  feature: int
  part: int
  block: int
  bags: Group


def bag_lengths(
  features: Iterable[Feature],
) -> dict[str, tuple[int, ...]]:
  """Table name -> lengths of all bags that an example has in the table."""
  found: dict[str, tuple[int, ...]] = {}
  for feature in features:
    count, length = feature.bags
    for table in feature.encoding.tables:
      found[table.name] = found.get(table.name, ()) + (length,) * count
  return found


def place_bags(
  features: tuple[Feature, ...], layout: Layout
) -> dict[str, tuple[Place, ...]]:
  """Sorts the bags of each stack so that bags treated alike are neighbours.

  They are sorted by length, then by encoding, then by part of the encoding.
  """
  kinds = list(dict.fromkeys(f.encoding.alike for f in features))

  def order(place: Place) -> tuple[int, int, int]:
    kind = kinds.index(features[place.feature].encoding.alike)
    return place.bags.length, kind, place.part

  found: dict[str, list[Place]] = {stack: [] for stack in layout.stacks}
  for i, feature in enumerate(features):
    for part, table in enumerate(feature.encoding.tables):
      for j, block in enumerate(layout.blocks[table.name]):
        found[block.stack].append(Place(i, part, j, feature.bags))
  return {
    stack: tuple(sorted(places, key=order)) for stack, places in found.items()
  }


def group_bags(places: tuple[Place, ...]) -> tuple[Group, ...]:
  """Merges neighbouring bags of equal length to groups."""
  groups: list[Group] = []
  for place in places:
    count, length = place.bags
    if groups and groups[-1].length == length:
      groups[-1] = Group(groups[-1].count + count, length)
    else:
      groups.append(place.bags)
  return tuple(groups)


def columns_of(
  features: tuple[Feature, ...], ids: jax.Array
) -> list[jax.Array]:
  """Cuts [B, H] into the [B, hotness] of the column that each feature reads.

  Args:
    features: the features, in order.
    ids: `Inputs.ids`, or what lies beside them: `Inputs.id_weights`.

  Returns:
    One array a feature; features that read one column get the same one.
  """
  hotness = column_hotness(features)
  cuts = [0, *itertools.accumulate(hotness.values())]
  if ids.shape[1] != cuts[-1]:
    raise ValueError(
      f'ids have {ids.shape[1]} columns; the features need {cuts[-1]}'
    )
  columns = {
    name: ids[:, a:b]
    for name, (a, b) in zip(hotness, itertools.pairwise(cuts), strict=True)
  }
  return [columns[feature.source] for feature in features]


def weights_of(
  features: tuple[Feature, ...],
  columns: list[jax.Array],
  id_weights: jax.Array | None,
) -> list[jax.Array | None]:
  """Weights of each feature's ids, f32[B, hotness]; None where all are 1.

  Args:
    features: the features, in order.
    columns: their ids, i32[B, hotness] each.
    id_weights: f32[B, H], or None.
  """
  given: list[jax.Array | None] = [None] * len(columns)
  if id_weights is not None:
    given = list(columns_of(features, id_weights))
  return [
    _mean_weights(ids, w, f.encoding.ids) if f.pooling is Pooling.MEAN else w
    for f, ids, w in zip(features, columns, given, strict=True)
  ]


def _mean_weights(
  ids: jax.Array, weights: jax.Array | None, count: int
) -> jax.Array:
  """Weights that sum to 1 over the ids of a bag; zeros for an empty bag.

  Ids outside 0 ... count - 1 have none.
  """
  present = ((ids >= 0) & (ids < count)).astype(jnp.float32)
  weights = present if weights is None else present * weights
  total = jnp.sum(weights, 1, keepdims=True)
  # No weight is negative (`data.checked`); the rest is too small to divide by.
  some = total >= jnp.finfo(jnp.float32).tiny
  return jnp.where(some, weights, 0.0) / jnp.where(some, total, 1.0)


def side_by_side(
  places: tuple[Place, ...],
  weights: list[jax.Array | None],
  columns: list[jax.Array],
) -> jax.Array | None:
  """Weights of the rows of a stack, f32[B, K]; None: every row counts once.

  Args:
    places: the bags of the stack, in order.
    weights: of each feature's ids, by `weights_of`.
    columns: ids of each feature, by `columns_of`.
  """
  of_places = [weights[p.feature] for p in places]
  if all(w is None for w in of_places):
    return None
  return jnp.concatenate(
    [
      jnp.ones(columns[p.feature].shape, jnp.float32) if w is None else w
      for p, w in zip(places, of_places, strict=True)
    ],
    1,
  )
