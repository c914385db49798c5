"""What embedding tables do, by definition: numpy, one id after the other."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.embedding.features import Pooling


class Composition(NamedTuple):
  """How one id becomes a vector.

  Attributes:
    tables: names, one a part.
    rows: id -> a row of each.
    make: (parts, id) -> their vector.
    pull: (parts, id, gradient of the vector) -> gradients of the parts.
    sums_first: whether the parts of a bag are summed before they are combined.
  """

  tables: tuple[str, ...]
  rows: Callable[[int], tuple[int, ...]]
  make: Callable[..., Any]
  pull: Callable[..., Any]
  sums_first: bool = False


def add(parts, i):
  return sum(parts)


def pull_add(parts, i, g):
  return [g] * len(parts)


def mult(parts, i):
  return math.prod(parts)


def pull_mult(parts, i, g):
  others = [[*parts[:j], *parts[j + 1 :]] for j in range(len(parts))]
  return [g * math.prod(x) for x in others]


def concat(parts, i):
  return np.concatenate(parts)


def pull_concat(parts, i, g):
  return np.split(g, np.cumsum([len(x) for x in parts])[:-1])


def tensor_train(rank, factors):
  """Cores f[r, d, r], of which the first and the last end in 1."""
  a, b, c = factors
  shapes = (a, rank), (rank, b, rank), (rank, c)

  def cores(parts):
    return [x.reshape(shape) for x, shape in zip(parts, shapes, strict=True)]

  def make(parts, i):
    return np.einsum('ar,rbs,sc->abc', *cores(parts)).reshape(-1)

  def pull(parts, i, g):
    x, y, z = cores(parts)
    g = g.reshape(factors)
    return [
      np.einsum('abc,rbs,sc->ar', g, y, z).reshape(-1),
      np.einsum('abc,ar,sc->rbs', g, x, z).reshape(-1),
      np.einsum('abc,ar,rbs->sc', g, x, y).reshape(-1),
    ]

  return make, pull


def path(chosen):
  """Perceptrons, `chosen(i)`: (enter, bias, leave, bias) one after another."""

  def forward(x, i):
    seen = []
    for enter, enter_bias, leave, leave_bias in chosen(i):
      hidden = np.maximum(x @ enter + enter_bias, 0)
      seen.append((enter, leave, hidden > 0))
      x = hidden @ leave + leave_bias
    return x, seen

  def pull(parts, i, g):
    for enter, leave, active in reversed(forward(parts[0], i)[1]):
      g = enter @ ((leave @ g) * active)
    return [g]

  return lambda parts, i: forward(parts[0], i)[0], pull


def projection(matrix):
  return lambda parts, i: parts[0] @ matrix, lambda parts, i, g: [matrix @ g]


def bags(features, ids, id_weights):
  """For each example and feature the (id, weight) of those that are there."""
  return [
    [_bag(feature, here, x, w) for feature, here in _columns(features)]
    for x, w in zip(
      ids, np.ones(ids.shape) if id_weights is None else id_weights, strict=True
    )
  ]


def _columns(features):
  start = 0
  for feature in features:
    yield feature, slice(start, start + feature.hotness)
    start += feature.hotness


def _bag(feature, here, ids, weights):
  ids, weights = ids[here], weights[here].astype(np.float64)
  if feature.pooling is Pooling.MEAN:
    weights = weights / (weights[ids >= 0].sum() or 1.0)
  return [(int(i), w) for i, w in zip(ids, weights, strict=True) if i >= 0]


def _parts(composition, tables, i):
  at = zip(composition.tables, composition.rows(i), strict=True)
  return [tables[name][row] for name, row in at]


def _sums(composition, tables, bag):
  of_ids = [[w * x for x in _parts(composition, tables, i)] for i, w in bag]
  return [sum(x) for x in zip(*of_ids, strict=True)]


def vector(composition, tables, bag, dim):
  """Of a bag, f[D]."""
  if not bag:
    return np.zeros(dim)
  if composition.sums_first:
    return composition.make(_sums(composition, tables, bag), None)
  return sum(
    w * composition.make(_parts(composition, tables, i), i) for i, w in bag
  )


def gradients(composition, tables, bag, g):
  """(table, row, gradient) of every read, from the gradient of the vector."""
  if bag and composition.sums_first:
    of_sums = composition.pull(_sums(composition, tables, bag), None, g)
  for i, w in bag:
    pulled = (
      of_sums
      if composition.sums_first
      else composition.pull(_parts(composition, tables, i), i, g)
    )
    rows = composition.rows(i)
    yield from (
      (name, row, w * x)
      for name, row, x in zip(composition.tables, rows, pulled, strict=True)
    )


class Optimizer:
  """SGD, Adagrad, row-wise Adagrad and lazy Adam on rows of one table."""

  def __init__(self, name, rate, shape, blocks):
    self.name, self.rate, self.count = name, rate, 0
    self.sums = np.zeros(shape)
    self.means = np.zeros(shape)
    self.blocks = blocks  # column blocks: row-wise sums are theirs

  def move(self, table, grads):
    """Moves the rows of grads, a dict from row to its summed gradient."""
    self.count += 1
    for row, g in grads.items():
      table[row] -= self.rate * self.scaled(row, g)

  def scaled(self, row, g):
    if self.name == 'sgd':
      return g
    if self.name == 'adam':
      self.means[row] = 0.9 * self.means[row] + 0.1 * g
      self.sums[row] = 0.999 * self.sums[row] + 0.001 * g * g
      mean = self.means[row] / (1 - 0.9**self.count)
      return mean / (np.sqrt(self.sums[row] / (1 - 0.999**self.count)) + 1e-8)
    square = g * g
    if self.name == 'rowwise_adagrad':
      cut = square.reshape(self.blocks, -1)
      square = np.repeat(cut.mean(1), cut.shape[1])
    self.sums[row] += square
    return g / (np.sqrt(self.sums[row]) + 1e-10)
