"""A click log drawn at random, whose best possible metrics are known.

Clicks are drawn from planted probabilities (see `planted`), whose metrics no
model can exceed but by chance. With two tasks, a click is followed by a
conversion with a probability that has planted effects of its own; so the
probability of a conversion is the product of both. A block is a function of
the log, the split and the block's number, so nothing is stored and any thread
can draw any block.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from dlrm_jax.data.schema import (
  BLOCK_ROWS,
  LABELS,
  Block,
  Column,
  Scale,
  Schema,
)
from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary
from dlrm_jax.synthetic.ids import Ids
from dlrm_jax.synthetic.planted import (
  Logits,
  Strength,
  Truth,
  logits_of,
  plant,
  probability,
)
from dlrm_jax.traces import power_law, trace_files

SPLITS = ('train', 'validation', 'test')
CONVERSION = 'conversion'
"""The label of the second task: 1 for a click that a conversion follows."""

_OF_CONVERSIONS = 1  # behind the seed: effects on conversions

_DRAWN = 'ids drawn in float64'
"""Part of the fingerprint, as older versions drew other ids, in float32."""


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """A synthetic click log, with the interface of a prepared set.

  >>> log = Synthetic(train=10_000)
  >>> log.source('train')[0].ids.shape
  (4096, 13)

  Attributes:
    train: number of examples of split train.
    validation: number of examples of split validation.
    test: number of examples of split test.
    dense: number of dense features, which are standard normal.
    tables: size of the vocabulary of each sparse feature; feature 2k interacts
      with 2k + 1.
    hotness: largest number of ids of each feature. Above 1, the length of a bag
      is uniform in 0 ... hotness, or always `hotness` with `full_bags`.
    strength: sizes of the planted effects.
    seed: seed of everything.
    exponent: exponent of the power law of ids; the effects are planted for 1.
    trace: file of traces (see `trace_files`), whose features replace `tables`
      and `hotness`; '': ids are drawn from the power law.
    tasks: 1: clicks; 2: clicks, and conversions after them.
    size: the vocabulary sizes in `tables` are multiplied by it and rounded.
    full_bags: whether every bag has as many ids as the feature's hotness.
  """

  train: int = 12_582_912
  validation: int = 131_072
  test: int = 524_288
  dense: int = 4
  tables: tuple[int, ...] = (2000, 1000, 1000, 500, 500, 200, 200, 100)
  hotness: tuple[int, ...] = (1, 1, 1, 4, 1, 1, 1, 3)
  strength: Strength = dataclasses.field(default_factory=Strength)
  seed: int = 0
  # Not in the repr, so that their defaults do not change older fingerprints.
  exponent: float = dataclasses.field(default=1.0, repr=False)
  trace: str = dataclasses.field(default='', repr=False)
  tasks: int = dataclasses.field(default=1, repr=False)
  size: float = dataclasses.field(default=1.0, repr=False)
  full_bags: bool = dataclasses.field(default=False, repr=False)

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
    if self.tasks not in (1, 2):
      raise InputError(
        f'synthetic data: tasks is {self.tasks}; expected 1 or 2'
      )
    # A table needs more ids than it has planted numbers an id.
    least = {'dense': 0, 'tables': self.strength.rank + 2}
    for field in ('dense', 'tables', 'hotness', *SPLITS):
      value, bound = getattr(self, field), least.get(field, 1)
      if np.min(value, initial=bound) < bound:
        raise InputError(
          f'synthetic data: {field} is {value}; expected {bound} or more'
        )
    self._check_law()
    self._check_sizes(least['tables'])

  def _check_law(self) -> None:
    if not 0 <= self.exponent <= power_law.STEEPEST:
      raise InputError(
        f'synthetic data: exponent is {self.exponent}; expected 0 ... '
        f'{power_law.STEEPEST}'
      )
    if self.trace and self.exponent != 1:
      raise InputError(
        f'synthetic data: exponent is {self.exponent}, but {self.trace} says '
        'how popular ids are; leave one of them out'
      )

  def _check_sizes(self, least: int) -> None:
    if not 0 < self.size < float('inf'):
      raise InputError(
        f'synthetic data: size is {self.size}; expected a number above 0, such '
        'as 0.01 for a hundredth of the rows'
      )
    if self.trace and self.size != 1:
      raise InputError(
        f'synthetic data: size is {self.size}, but {self.trace} says how many '
        'rows there are; leave one of them out'
      )
    where = self.trace or f'synthetic data of size {self.size}'
    for column in self.ids.columns:
      if not least <= column.rows < 2**31:
        raise InputError(
          f'{where}, feature {column.name}: rows is {column.rows}; synthetic '
          f'data needs {least} or more, and less than {2**31}'
        )

  @functools.cached_property
  def ids(self) -> Ids:
    """The source of the ids."""
    if self.trace:
      traces = trace_files.read_traces(self.trace)
      sizes = {name: (t.rows, t.hotness) for name, t in traces.items()}
    else:
      traces = {}
      rows = [round(self.size * rows) for rows in self.tables]
      both = enumerate(zip(rows, self.hotness, strict=True), 1)
      sizes = {f'C{f}': size for f, size in both}
    columns = tuple(Column(name, *size) for name, size in sizes.items())
    return Ids(columns, self.seed, self.exponent, traces, self.full_bags)

  @property
  def schema(self) -> Schema:
    """Columns I1, I2, ... and C1, C2, ..., or the names in the trace file."""
    dense = tuple(f'I{n + 1}' for n in range(self.dense))
    labels = LABELS if self.tasks == 1 else (*LABELS, CONVERSION)
    return Schema(dense, self.ids.columns, labels)

  @property
  def splits(self) -> dict[str, int]:
    """Examples of each split."""
    return {split: getattr(self, split) for split in SPLITS}

  @property
  def clicks(self) -> dict[str, int]:
    """Empty: clicks are not counted before they are drawn."""
    return {}

  @property
  def scale(self) -> Scale:
    """Mean 0 and deviation 1 of each dense feature."""
    return Scale((0.0,) * self.dense, (1.0,) * self.dense)

  @property
  def details(self) -> dict[str, Any]:
    """The log as JSON values; `ids` is a digest of the meaning of the ids."""
    spec = dataclasses.asdict(self)
    return {'kind': 'synthetic', 'ids': self._digest, **spec}

  @property
  def fingerprint(self) -> str:
    """Equal for equal data."""
    return f'{self._digest}, {_DRAWN}'

  @property
  def _digest(self) -> str:
    """Digest of the log's fields and traces."""
    spec = repr(self)
    if self.trace or self.exponent != 1:
      spec += repr((self.exponent, self.ids.traces))
    if self.tasks != 1:
      spec += f'{self.tasks} tasks'
    if self.size != 1:
      spec += f'size {self.size}'
    if self.full_bags:
      spec += 'full bags'
    return hashlib.sha256(spec.encode()).hexdigest()[:16]

  @functools.cached_property
  def truths(self) -> tuple[Truth, ...]:
    """The planted effects on each task: on conversions, those after a click."""
    columns = self.ids.columns
    tables = [column.rows for column in columns]
    lengths = self.ids.mean_lengths
    seeds = (self.seed, (self.seed, _OF_CONVERSIONS))
    return tuple(
      plant(self.strength, self.dense, tables, lengths, seed)
      for seed in seeds[: self.tasks]
    )

  def counts(self, feature: str) -> np.ndarray:
    """Expected number of occurrences of each id in split train, f64[R]."""
    return self.ids.counts(feature, self.train)

  def count_pieces(self, feature: str) -> list[np.ndarray]:
    """The counts in pieces, as prepared sets give them."""
    return [self.counts(feature)]

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
    self._ids = spec.ids
    self._truths = spec.truths
    self._split = SPLITS.index(split)
    self._key = np.array([spec.seed, self._split], np.uint64)

  def __len__(self) -> int:
    return -(-self.examples // BLOCK_ROWS)

  def __getitem__(self, block: int) -> Block:
    return self.draw(block)[0]

  def draw(self, block: int) -> tuple[Block, tuple[Logits, ...]]:
    """A block, and the logits from which its labels are drawn.

    Logits of conversions are those of conversions after a click.
    """
    if not 0 <= block < len(self):
      raise IndexError(f'there are {len(self)} blocks; asked for {block}')
    n = min(BLOCK_ROWS, self.examples - block * BLOCK_ROWS)
    rng = np.random.Generator(
      np.random.Philox(key=self._key, counter=[0, 0, 0, block])
    )
    dense = rng.standard_normal((n, len(self.schema.dense)), np.float32)
    bags = self._ids.draw(rng, n, self._split, block)
    logits = tuple(logits_of(truth, dense, bags) for truth in self._truths)
    labels = np.ones((n, len(logits)), np.float32)
    for task, (additive, interaction) in enumerate(logits):
      odds = np.exp(-additive - interaction)
      follows = rng.random(n, np.float32) * (1 + odds) < 1
      labels[:, task:] *= follows[:, None]
    ids = np.ascontiguousarray(np.concatenate(bags).T)
    return Block(dense, ids, labels), logits


def optimum(source: SyntheticSource) -> dict[str, dict[str, float]]:
  """Metrics of the true probabilities on all examples of a split, by label.

  Names are those of `binary.summarize`. No model is better but by chance.
  """
  names = source.schema.labels
  totals = [binary.empty() for _ in names]
  for number in range(len(source)):
    block, logits = source.draw(number)
    weights = np.ones(len(block.labels), np.float32)
    known: list[Logits] = []
    for task, of_task in enumerate(logits):
      known.append(of_task)
      totals[task] = binary.tally(
        _joint(known), block.labels[:, task], weights, totals[task]
      )
  return {
    name: binary.summarize(total)
    for name, total in zip(names, totals, strict=True)
  }


def _joint(logits: list[Logits]) -> np.ndarray:
  """Logits, f[n], of the event that all tasks happen, one after the other."""
  if len(logits) == 1:
    return logits[0].additive + logits[0].interaction
  both = np.prod([probability(of_task) for of_task in logits], axis=0)
  return np.log(both) - np.log1p(-both)
