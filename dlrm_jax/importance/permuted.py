"""Permutation importance: how much worse a model scores without a feature.

A feature is taken from a model by giving each example the feature of another
one (Breiman 2001, "Random Forests", section 10, for any model and metric). What
the model then loses is what it had from the feature, as far as other features
do not tell the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from tqdm import tqdm

from dlrm_jax.data.schema import Block, Schema
from dlrm_jax.metrics import binary
from dlrm_jax.metrics.paired import Scored, auc_decrease, log_loss_increase
from dlrm_jax.report.importance import FeatureLoss, LabelLosses


class FeatureColumns(NamedTuple):
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


def columns_of(schema: Schema) -> list[FeatureColumns]:
  """All features of a log: dense columns, then sparse ones."""
  columns = [
    FeatureColumns(name, True, slice(i, i + 1))
    for i, name in enumerate(schema.dense)
  ]
  first = 0
  for column in schema.sparse:
    place = slice(first, first + column.hotness)
    columns.append(FeatureColumns(column.name, False, place))
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
  columns: Sequence[FeatureColumns]
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
    return f'{line}; {same} the same in all examples' if same else line

  def orders(self, feature: int) -> Iterator[np.ndarray]:
    """The permutations of a feature, by its number."""
    if not self.constant[feature]:
      for repeat in range(self.repeats):
        yield order_of(self.seed, feature, repeat, len(self.examples.labels))


def measure(
  plan: Plan, labels: Sequence[str], score: Callable[[Block], np.ndarray]
) -> dict[str, LabelLosses]:
  """What each label loses by the permutations, by name of the label.

  Args:
    plan: what to permute.
    labels: names of the labels.
    score: gives the logits [n, T] of a model for n examples.

  Raises:
    InputError: a label is not 0 or 1.
  """
  with tqdm(
    desc='importance', total=plan.passes, unit=' passes', disable=None
  ) as bar:

    def scored(examples: Block) -> list[Scored]:
      logits = score(examples)
      bar.update()
      return [_of_label(examples, logits, i) for i in range(len(labels))]

    before = scored(plan.examples)
    metrics = [binary.summarize(binary.tally(*x)) for x in before]
    found: dict[str, list[FeatureLoss]] = {label: [] for label in labels}
    for number, column in enumerate(plan.columns):
      repeats = [
        scored(column.permuted(plan.examples, order))
        for order in plan.orders(number)
      ]
      for i, label in enumerate(labels):
        after = [of_labels[i] for of_labels in repeats]
        found[label].append(_loss(column.name, before[i], after))
  return {
    label: LabelLosses.of(of_label, features)
    for of_label, (label, features) in zip(metrics, found.items(), strict=True)
  }


def _of_label(examples: Block, logits: np.ndarray, number: int) -> Scored:
  """The predictions of a label, by its number, where examples have it."""
  labels = examples.labels[:, number]
  weights = examples.weights
  if weights is None:
    weights = np.ones(len(labels), np.float32)
  known = ~np.isnan(labels)
  return Scored(logits[known, number], labels[known], weights[known])


def _loss(name: str, before: Scored, after: Sequence[Scored]) -> FeatureLoss:
  """What one label loses by one feature.

  Args:
    name: name of the feature.
    before: predictions without permutation.
    after: predictions of each repeat; empty if the feature is constant.
  """
  if not after:
    return FeatureLoss(name, *[0.0] * 6, constant=True)
  worse, lower = log_loss_increase(before, after), auc_decrease(before, after)
  return FeatureLoss(name, *worse, *lower)
