"""A click log made on the fly, whose best possible metrics are known.

Clicks are drawn from planted probabilities (see `planted`), so the metrics of
those are the best that any model can reach. A block is a function of the
spec, the split and its number alone: nothing is stored, any thread may make
any block, and a training run can be started anywhere.
"""

import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax import metrics
from dlrm_jax.batch import PAD
from dlrm_jax.data.planted import (
  Logits,
  Strength,
  Truth,
  logits_of,
  plant,
  probabilities,
  zipf,
)
from dlrm_jax.data.schema import (
  BLOCK_ROWS,
  Block,
  Column,
  Scale,
  Schema,
)
from dlrm_jax.errors import InputError

SPLITS = ('train', 'validation', 'test')


class Optimum(NamedTuple):
  """How good a model of a split can be.

  Attributes:
    metrics: of the true probabilities, on the clicks that were drawn; as
      `metrics.summarize` names them. No model's are better, up to chance.
    entropy: the expectation of that log-loss over the clicks, in nats.
    additive_auc: AUC of the logits without their interactions, about the best
      of a model without interactions.
  """

  metrics: dict[str, float]
  entropy: float
  additive_auc: float


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """A synthetic click log; has what a prepared set has.

  >>> log = Synthetic(train=10_000)
  >>> log.source('train')[0].ids.shape
  (4096, 13)

  Attributes:
    train: examples of that split.
    validation: examples of that split.
    test: examples of that split.
    dense: number of dense features, standard normal.
    tables: vocabulary of each sparse feature; feature 2k interacts with
      2k + 1.
    hotness: ids an example of each feature at most. Above one, the length of
      a bag is uniform in 0 ... hotness.
    strength: of the planted effects.
    seed: of everything.
  """

  train: int = 12_582_912
  validation: int = 131_072
  test: int = 524_288
  dense: int = 4
  tables: tuple[int, ...] = (2000, 1000, 1000, 500, 500, 200, 200, 100)
  hotness: tuple[int, ...] = (1, 1, 1, 4, 1, 1, 1, 3)
  strength: Strength = dataclasses.field(default_factory=Strength)
  seed: int = 0

  def __post_init__(self) -> None:
    if len(self.tables) != len(self.hotness):
      raise InputError(
        f'synthetic data: {len(self.tables)} tables but {len(self.hotness)} '
        'hotness; give one hotness a table'
      )
    if self.strength.rank < 1 or not 0 <= self.seed < 2**63:
      raise InputError(
        f'synthetic data: rank is {self.strength.rank}, seed {self.seed}; '
        'expected a rank of 1 or more, a seed in 0 ... 2^63 - 1'
      )
    # A table must not have fewer ids than planted numbers.
    least = {'dense': 0, 'tables': self.strength.rank + 2}
    for field in ('dense', 'tables', 'hotness', *SPLITS):
      value, bound = getattr(self, field), least.get(field, 1)
      if np.min(value, initial=bound) < bound:
        raise InputError(
          f'synthetic data: {field} is {value}; expected {bound} or more'
        )

  @property
  def schema(self) -> Schema:
    """Dense I1 ..., sparse C1 ..., as in Criteo's logs."""
    columns = enumerate(zip(self.tables, self.hotness, strict=True), 1)
    return Schema(
      dense=tuple(f'I{n + 1}' for n in range(self.dense)),
      sparse=tuple(Column(f'C{f}', rows, most) for f, (rows, most) in columns),
    )

  @property
  def splits(self) -> dict[str, int]:
    """Examples of each split."""
    return {split: getattr(self, split) for split in SPLITS}

  @property
  def scale(self) -> Scale:
    """Dense features are standard normal."""
    return Scale((0.0,) * self.dense, (1.0,) * self.dense)

  @property
  def details(self) -> dict[str, Any]:
    """The spec, as JSON can hold it."""
    return {'kind': 'synthetic', **dataclasses.asdict(self)}

  @property
  def fingerprint(self) -> str:
    """Digest of the spec: equal for equal data."""
    return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

  @functools.cached_property
  def truth(self) -> Truth:
    """What the logits are made of."""
    return plant(
      self.strength, self.dense, self.tables, self.hotness, self.seed
    )

  def counts(self, feature: str) -> np.ndarray:
    """How often split train has each id, f64[R]: expected."""
    column = next(c for c in self.schema.sparse if c.name == feature)
    length = 1 if column.hotness == 1 else column.hotness / 2
    return self.train * length * probabilities(column.rows)

  def source(self, split: str) -> 'SyntheticSource':
    """The blocks of a split.

    Raises:
      InputError: there is no such split.
    """
    if split not in SPLITS:
      raise InputError(
        f'synthetic data has no split {split!r}; it has {", ".join(SPLITS)}'
      )
    return SyntheticSource(self, split)


class SyntheticSource:
  """The blocks of one split; a `Source`."""

  def __init__(self, spec: Synthetic, split: str) -> None:
    self.schema = spec.schema
    self.examples = spec.splits[split]
    self._truth = spec.truth
    self._key = np.array([spec.seed, SPLITS.index(split)], np.uint64)

  def __len__(self) -> int:
    return -(-self.examples // BLOCK_ROWS)

  def __getitem__(self, block: int) -> Block:
    return self.draw(block)[0]

  def draw(self, block: int) -> tuple[Block, Logits]:
    """A block, and the logits from which its clicks were drawn."""
    if not 0 <= block < len(self):
      raise IndexError(f'there are {len(self)} blocks; asked for {block}')
    n = min(BLOCK_ROWS, self.examples - block * BLOCK_ROWS)
    rng = np.random.Generator(
      np.random.Philox(key=self._key, counter=[0, 0, 0, block])
    )
    dense = rng.standard_normal((n, len(self.schema.dense)), np.float32)
    bags = [_draw_bags(rng, n, column) for column in self.schema.sparse]
    logits = logits_of(self._truth, dense, bags)
    odds = np.exp(-logits.additive - logits.interaction)
    clicks = rng.random(n, np.float32) * (1 + odds) < 1
    ids = np.ascontiguousarray(np.concatenate(bags).T)
    return Block(dense, ids, clicks.astype(np.float32)), logits


def _draw_bags(rng: np.random.Generator, n: int, column: Column) -> np.ndarray:
  """i32[hotness, n]: ids, PAD behind a bag's last."""
  ids = zipf(rng.random((column.hotness, n), np.float32), column.rows)
  if column.hotness > 1:
    lengths = rng.integers(0, column.hotness + 1, n)
    ids[np.arange(column.hotness)[:, None] >= lengths] = PAD
  return ids


def optimum(source: SyntheticSource) -> Optimum:
  """What the true probabilities reach on a split, from all its examples."""
  whole, additive = metrics.empty(), metrics.empty()
  entropy = 0.0
  for number in range(len(source)):
    block, logits = source.draw(number)
    logit = logits.additive + logits.interaction
    ones = np.ones_like(block.labels)
    whole = metrics.tally(logit, block.labels, ones, into=whole)
    additive = metrics.tally(logits.additive, block.labels, ones, into=additive)
    # Of a coin with odds e^z: log(1 + e^z) - z p.
    p = 1 / (1 + np.exp(-logit, dtype=np.float64))
    entropy += float(np.sum(np.logaddexp(0, logit) - logit * p))
  return Optimum(
    metrics=metrics.summarize(whole),
    entropy=entropy / source.examples,
    additive_auc=metrics.summarize(additive)['auc'],
  )
