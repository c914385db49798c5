"""Permutation importance: how much worse a model scores without a feature.

A feature is taken from a model by giving each example the feature of another
one (Breiman 2001, "Random Forests", section 10, for any model and metric). What
the model then loses is what it had from the feature, as far as other features
do not tell the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from tqdm import tqdm

from dlrm_jax.data.schema import Block, Schema
from dlrm_jax.report.importance import FeatureLoss, LabelLosses

Metrics = Mapping[str, Mapping[str, float]]
"""Name of a label -> metrics by name, those of `binary.summarize`."""


class Column(NamedTuple):
  """A feature as columns of the arrays of examples.

  Attributes:
    name: name of the feature.
    dense: whether it is a column of the dense features, not a bag of ids.
    place: its columns in `Block.dense`, or in `Block.ids` and `id_weights`.
  """

  name: str
  dense: bool
  place: slice

  def arrays(self, examples: Block) -> tuple[np.ndarray, ...]:
    """The feature of all examples: [n, 1], or ids and weights [n, hotness]."""
    if self.dense:
      return (examples.dense[:, self.place],)
    arrays = examples.ids, examples.id_weights
    return tuple(x[:, self.place] for x in arrays if x is not None)

  def constant(self, examples: Block) -> bool:
    """Whether all examples have the same feature."""
    return all((x == x[:1]).all() for x in self.arrays(examples))

  def permuted(self, examples: Block, order: np.ndarray) -> Block:
    """Examples with this feature of other examples.

    Args:
      examples: n examples, which stay as they are.
      order: i64[n], the example that each one gets the feature of.
    """

    def moved(x: np.ndarray) -> np.ndarray:
      changed = x.copy()
      changed[:, self.place] = x[order, self.place]
      return changed

    if self.dense:
      return examples._replace(dense=moved(examples.dense))
    weights = examples.id_weights
    return examples._replace(
      ids=moved(examples.ids),
      id_weights=None if weights is None else moved(weights),
    )


def columns_of(schema: Schema) -> list[Column]:
  """All features of a log: dense columns, then sparse ones."""
  columns = [
    Column(name, True, slice(i, i + 1)) for i, name in enumerate(schema.dense)
  ]
  first = 0
  for column in schema.sparse:
    place = slice(first, first + column.hotness)
    columns.append(Column(column.name, False, place))
    first += column.hotness
  return columns


def order_of(seed: int, feature: int, repeat: int, count: int) -> np.ndarray:
  """The permutation of a feature in a repeat, i64[count]."""
  return np.random.default_rng([seed, feature, repeat]).permutation(count)


class Plan(NamedTuple):
  """What is permuted, and how often.

  Attributes:
    examples: the examples.
    columns: the features.
    constant: for each feature whether all examples have the same; it is not
      permuted.
    repeats: number of permutations of each other feature.
    seed: seed of the permutations.
  """

  examples: Block
  columns: Sequence[Column]
  constant: Sequence[bool]
  repeats: int
  seed: int

  @classmethod
  def of(cls, examples: Block, schema: Schema, repeats: int, seed: int) -> Self:
    """A plan for all features of a log."""
    columns = columns_of(schema)
    constant = [column.constant(examples) for column in columns]
    return cls(examples, columns, constant, repeats, seed)

  @property
  def passes(self) -> int:
    """Number of times that all examples are scored."""
    return 1 + self.repeats * (len(self.columns) - sum(self.constant))

  @property
  def line(self) -> str:
    """The plan as text."""
    count, examples = len(self.columns), len(self.examples.labels)
    line = f'{count} features x {self.repeats} repeats of {examples:,} examples'
    same = sum(self.constant)
    return f'{line}; {same} are the same in all examples' if same else line

  def orders(self, feature: int) -> Iterator[np.ndarray]:
    """The permutations of a feature, by its number."""
    if not self.constant[feature]:
      for repeat in range(self.repeats):
        yield order_of(self.seed, feature, repeat, len(self.examples.labels))


def measure(
  plan: Plan, score: Callable[[Block], Metrics]
) -> dict[str, LabelLosses]:
  """What each label loses by the permutations, by name of the label.

  Args:
    plan: what to permute.
    score: gives the metrics of a model on some examples.
  """
  with tqdm(
    desc='importance', total=plan.passes, unit=' passes', disable=None
  ) as bar:

    def scored(examples: Block) -> Metrics:
      metrics = score(examples)
      bar.update()
      return metrics

    base = scored(plan.examples)
    losses: dict[str, list[FeatureLoss]] = {label: [] for label in base}
    for number, column in enumerate(plan.columns):
      found = [
        scored(column.permuted(plan.examples, order))
        for order in plan.orders(number)
      ]
      for label, before in base.items():
        after = [of_labels[label] for of_labels in found]
        losses[label].append(_loss(column.name, before, after))
  return {
    label: LabelLosses.of(base[label], features)
    for label, features in losses.items()
  }


def _loss(
  name: str,
  before: Mapping[str, float],
  after: Sequence[Mapping[str, float]],
) -> FeatureLoss:
  """What one label loses by one feature.

  Args:
    name: name of the feature.
    before: metrics of the label without permutation.
    after: metrics of each repeat; empty if the feature is constant.
  """
  if not after:
    return FeatureLoss(name, 0.0, 0.0, 0.0, 0.0, constant=True)
  worse = np.array([x['log_loss'] for x in after]) - before['log_loss']
  lower = before['auc'] - np.array([x['auc'] for x in after])
  return FeatureLoss(name, *_mean(worse), *_mean(lower))


def _mean(changes: np.ndarray) -> tuple[float, float]:
  """The mean of f64[repeats] and its standard error; nan for one repeat."""
  count = len(changes)
  error = changes.std(ddof=1) / count**0.5 if count > 1 else np.nan
  return float(changes.mean()), float(error)
