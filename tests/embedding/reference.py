"""What embedding tables do, by definition: numpy, one id after the other.

How a row is kept is up to the codec of its storage, by random bits that are
defined here.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.embedding.features import Pooling
from dlrm_jax.rows import mix32


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


def noise(seed, table, columns, node=None):
  """The random bits of some columns of a table, u32[R, len(columns)].

  Args:
    seed: u32, of the step and the use.
    table: number and rows of the table.
    columns: i64[n].
    node: number of the copy of an independent table.
  """
  number, rows = table
  with np.errstate(over='ignore'):
    seed = mix32(mix32(np.uint32(seed)) + np.uint32(number))
    if node is not None:
      seed = mix32(seed + np.uint32(node))
    starts = mix32(mix32(np.arange(rows, dtype=np.uint32)) ^ seed)
    steps = columns.astype(np.uint32) * np.uint32(0x9E3779B9)
    return mix32(starts[:, None] + steps[None])


@functools.cache
def _round_trip(storage, width):
  return jax.jit(lambda x, y: storage.decode(storage.encode(x, y), width))


def kept(storage, values, bits):
  """Values f[R, D] as a storage has them, rounded by random bits."""
  more = (0, -len(values) % 32), (0, 0)  # so few programs are compiled
  values, bits = np.pad(values.astype(np.float32), more), np.pad(bits, more)
  found = _round_trip(storage, values.shape[1])(values, bits)
  return np.asarray(found)[: len(found) - more[0][1]]


class Optimizer:
  """SGD, Adagrad, row-wise Adagrad and lazy Adam on rows of one table.

  Attributes:
    states: f[R, D] each; one number a row is repeated for its column block.
  """

  def __init__(self, name, rate, table, number, node):
    self.name, self.rate, self.count = name, rate, 0
    self.table, self.number, self.node = table, number, node
    count = {'sgd': 0, 'adam': 2}.get(name, 1)
    self.states = [np.zeros((table.rows, table.dim)) for _ in range(count)]

  def move(self, values, grads, key):
    """Moves the rows of grads, a dict from row to its summed gradient."""
    self.count += 1
    new = np.array(values)
    for row, g in grads.items():
      new[row] -= self.rate * self.scaled(row, g)
    rows = list(grads)
    values[rows] = self.kept(self.table.storage, new, key, 0)[rows]
    for use, state in enumerate(self.states, 1):
      state[rows] = self.kept(self.table.state, state, key, use)[rows]

  def kept(self, storage, values, key, use):
    """Values f[R, D] as they are kept, a column block after the other."""
    width = self.table.dim // self.table.placement.columns
    seed = (key + use * 0x9E3779B9) % 2**32
    about = self.number, self.table.rows
    found = []
    for start in range(0, self.table.dim, width):
      columns = np.arange(start, start + width)
      by_row = use and self.name == 'rowwise_adagrad'
      drawn = columns * 0 + start if by_row else columns
      bits = noise(seed, about, drawn, self.node)
      found.append(kept(storage, values[:, columns], bits))
    return np.concatenate(found, 1)

  def scaled(self, row, g):
    """The gradient of a row as the transform has it; moves its state."""
    if self.name == 'sgd':
      return g
    sums = self.states[-1]
    if self.name == 'adam':
      means = self.states[0]
      means[row] = 0.9 * means[row] + 0.1 * g
      sums[row] = 0.999 * sums[row] + 0.001 * g * g
      mean = means[row] / (1 - 0.9**self.count)
      return mean / (np.sqrt(sums[row] / (1 - 0.999**self.count)) + 1e-8)
    square = g * g
    if self.name == 'rowwise_adagrad':
      cut = square.reshape(self.table.placement.columns, -1)
      square = np.repeat(cut.mean(1), cut.shape[1])
    sums[row] += square
    return g / (np.sqrt(sums[row]) + 1e-10)
