"""What embedding tables do, by definition: numpy, one id after the other."""

import numpy as np

from dlrm_jax.embedding.features import Pooling


def lookup(features, tables, ids, id_weights, rows_of):
  """f32[B, F, D] and, for each table, pairs (row, feature, example, weight)."""
  dim = next(iter(tables.values())).shape[1]
  out = np.zeros((len(ids), len(features), dim))
  reads = []
  for example in range(len(ids)):
    column = 0
    for f, feature in enumerate(features):
      here = range(column, column + feature.hotness)
      column += feature.hotness
      weights = [
        1.0 if id_weights is None else id_weights[example, h] for h in here
      ]
      rows = [rows_of(feature, ids[example, h]) for h in here]
      if feature.pooling is Pooling.MEAN:
        total = sum(w for w, r in zip(weights, rows, strict=True) if r >= 0)
        weights = [w / (total or 1.0) for w in weights]
      for row, weight in zip(rows, weights, strict=True):
        if row >= 0:
          name = feature.encoding.tables[0].name
          out[example, f] += weight * tables[name][row]
          reads.append((name, row, f, example, weight))
  return out, reads


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
