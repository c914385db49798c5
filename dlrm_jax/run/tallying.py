"""Sums of an evaluation over batches and processes.

Each process tallies its own part of every batch. The total is the same on
every process.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.cluster import agreement
from dlrm_jax.data.lists import Lists
from dlrm_jax.metrics import binary, ranking
from dlrm_jax.run.groups import Kept
from dlrm_jax.training.heads import Head


class Scores(NamedTuple):
  """The result of an evaluation.

  Attributes:
    tallies: the tally of each head, by its name.
    places: places of the positives, where the examples are lists to rank.
  """

  tallies: dict[str, binary.Tally]
  places: ranking.Places | None = None


class ScoreSums:
  """Adds up what one model, or one member of an ensemble, has scored."""

  def __init__(
    self, heads: Sequence[Head], lists: Lists | None, grouped: bool = True
  ) -> None:
    """Begins with no examples.

    Args:
      heads: the tasks, one a column of logits and labels.
      lists: the lists that the examples are; None: they are none.
      grouped: whether to keep examples for metrics within groups.
    """
    self._heads, self._lists = heads, lists
    self._tallies = {head.name: binary.empty() for head in heads}
    self._places: list[ranking.Places] = []
    self._kept = Kept([head.name for head in heads]) if grouped else None

  def add(self, batch: Batch, logits: np.ndarray) -> None:
    """Adds this process's part of a batch.

    Args:
      batch: labels and weights; a label that is NaN does not count. Of lists it
        has whole pieces.
      logits: f32[B, T] or f64[B, T].

    Raises:
      NotFinite: a logit is NaN or infinite.
    """
    for i, head in enumerate(self._heads):
      labels = np.asarray(batch.labels)[:, i]
      weights = np.where(np.isnan(labels), 0, batch.weights)
      self._tallies[head.name] = binary.tally(
        logits[:, i], labels, weights, self._tallies[head.name]
      )
    if self._kept is not None:
      self._kept.add(batch, logits)
    if self._lists is not None:
      shape = (-1, self._lists.length)
      weights = np.asarray(batch.weights).reshape(shape)
      self._places.append(ranking.places(logits[:, 0].reshape(shape), weights))

  def total(self) -> Scores:
    """The scores of the examples of all processes; every process calls it."""
    tallies = _of_all_processes(self._tallies)
    if self._kept is not None:
      tallies = self._kept.into(tallies)
    if self._lists is None:
      return Scores(tallies)
    return Scores(tallies, _whole_lists(self._places, self._lists.pieces))


def _of_all_processes(
  tallies: dict[str, binary.Tally],
) -> dict[str, binary.Tally]:
  """Adds up the tallies of all processes."""
  if jax.process_count() == 1:
    return tallies
  return {name: _added(tally) for name, tally in tallies.items()}


def _added(tally: binary.Tally) -> binary.Tally:
  """The sum of the tallies that all processes have."""
  clicks, others, low, high, *sums = tally[:-1]
  (low,) = agreement.reduced([low], 'min')
  (high,) = agreement.reduced([high], 'max')
  clicks, others, total = agreement.reduced(
    [clicks, others, np.array(sums)], 'sum'
  )
  numbers: Any = map(float, total)
  return binary.Tally(clicks, others, low, high, *numbers)


def _whole_lists(
  parts: Sequence[ranking.Places], pieces: int
) -> ranking.Places:
  """The places in whole lists, on every process.

  Args:
    parts: the places in the pieces that this process has of each batch.
    pieces: number of consecutive pieces of a list.
  """
  if not parts:
    empty = np.zeros(0, np.int64)
    return ranking.Places(empty, empty, empty > 0)
  mine = np.stack(
    [np.stack([np.asarray(x, np.int64) for x in p]) for p in parts]
  )
  # [batch, process, piece of the batch, field]: the order of the pieces.
  batches, fields, count = mine.shape
  found = np.zeros((batches, jax.process_count(), count, fields), np.int64)
  found[:, jax.process_index()] = mine.swapaxes(1, 2)
  found = agreement.total_of(found).reshape(-1, fields)
  found = found[: len(found) // pieces * pieces]
  above, tied, counted = found.reshape(-1, pieces, fields).sum(1).T
  return ranking.Places(above, tied, counted > 0)
