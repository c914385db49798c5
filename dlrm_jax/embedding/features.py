"""Features of a batch: their columns, their bags, the weights of their ids.

A feature with L ids has one bag of L rows in every stack in which its
encoding reads, or L bags of one row where it combines the rows of each id;
bags of equal length lie side by side.
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


class Pooling(enum.Enum):
  """How the vectors of a bag become one."""

  SUM = 'sum'
  MEAN = 'mean'


@dataclasses.dataclass(frozen=True)
class Feature:
  """A sparse feature of the batch.

  Attributes:
    name: for messages.
    encoding: ids -> rows -> vector. Features whose encodings read the same
      `Table` share it.
    hotness: its columns in `Batch.ids`.
    pooling: of the vectors of its ids; the mean is weighted by `id_weights`.
  """

  name: str
  encoding: Encoding
  hotness: int = 1
  pooling: Pooling = Pooling.SUM

  @property
  def bags(self) -> Group:
    """Its bags in each table that its encoding reads."""
    if self.encoding.pools_first:
      return Group(1, self.hotness)
    return Group(self.hotness, 1)


def mean_pooled(features: Iterable[Feature]) -> tuple[str, ...]:
  """Names of the features whose weights must not be negative."""
  return tuple(f.name for f in features if f.pooling is Pooling.MEAN)


class Place(NamedTuple):
  """The bags that one feature has in a stack for a block of its tables."""

  feature: int
  part: int
  block: int
  bags: Group


def bag_lengths(
  features: Iterable[Feature],
) -> dict[str, tuple[int, ...]]:
  """Lengths of all bags of rows of each table, by its name."""
  found: dict[str, tuple[int, ...]] = {}
  for feature in features:
    count, length = feature.bags
    for table in feature.encoding.tables:
      found[table.name] = found.get(table.name, ()) + (length,) * count
  return found


def place_bags(
  features: tuple[Feature, ...], layout: Layout
) -> dict[str, tuple[Place, ...]]:
  """Orders the bags of every stack, so that those treated alike meet.

  By length; then by encodings that combine alike, their first parts first.
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
  """Consecutive bags of equal length, together."""
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
  """Cuts what lies side by side, [B, H], to each feature's [B, hotness]."""
  cuts = [0]
  for feature in features:
    cuts.append(cuts[-1] + feature.hotness)
  if ids.shape[1] != cuts[-1]:
    raise ValueError(
      f'ids have {ids.shape[1]} columns; the features need {cuts[-1]}'
    )
  return [ids[:, a:b] for a, b in itertools.pairwise(cuts)]


def weights_of(
  features: tuple[Feature, ...],
  columns: list[jax.Array],
  id_weights: jax.Array | None,
) -> list[jax.Array | None]:
  """Weights of each feature's ids, f32[B, hotness]; None where all are 1."""
  given: list[jax.Array | None] = [None] * len(columns)
  if id_weights is not None:
    given = list(columns_of(features, id_weights))
  return [
    _mean_weights(ids, w) if feature.pooling is Pooling.MEAN else w
    for feature, ids, w in zip(features, columns, given, strict=True)
  ]


def _mean_weights(ids: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Weights that sum to 1 over the ids of a bag; 0 for an empty bag."""
  present = (ids >= 0).astype(jnp.float32)
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
  """Weights of a stack's rows, f32[B, K]; None when every row counts once."""
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
