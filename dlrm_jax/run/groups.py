"""Keeps the logits of examples that have a group, for metrics within groups.

A tally forgets single examples, so an AUC within groups needs them all at the
end of an evaluation. Every process keeps its own part; at the end all of them
get all parts, so that they compute the same bits, whatever their number.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dlrm_jax.batch import NO_GROUP, Batch
from dlrm_jax.cluster import agreement
from dlrm_jax.metrics import binary, grouped

MOST_GROUPED = 50_000_000
"""Most examples of an evaluation that are kept for metrics within groups; each
takes some 100 bytes at the end. With more, these metrics are undefined."""


class Kept:
  """Groups, weights, labels and logits of the examples of an evaluation."""

  def __init__(self, heads: Sequence[str]) -> None:
    """Keeps nothing yet; `heads` are the names of the columns of logits."""
    self._heads = heads
    # A row has 32-bit words: group, weight, T labels, T logits.
    self._rows: list[np.ndarray] = []
    self._count = 0
    self._grouped = False

  def add(self, batch: Batch, logits: np.ndarray) -> None:
    """Keeps the examples of a batch that have a group and a weight above 0.

    Args:
      batch: the batch; nothing is kept if its data has no groups.
      logits: its logits, f32[B, T] or f64[B, T].
    """
    group = batch.inputs.group
    if group is None:
      return
    self._grouped = True
    weights = np.asarray(batch.weights)
    counts = (np.asarray(group) != NO_GROUP) & (weights > 0)
    rows = np.empty((int(counts.sum()), 2 + 2 * len(self._heads)), np.int32)
    floats = rows.view(np.float32)
    rows[:, 0] = np.asarray(group)[counts]
    floats[:, 1] = weights[counts]
    floats[:, 2::2] = np.asarray(batch.labels)[counts]
    floats[:, 3::2] = logits[counts]
    self._count += len(rows)
    if self._count <= MOST_GROUPED:
      self._rows.append(rows)
    else:
      self._rows.clear()

  def into(
    self, tallies: Mapping[str, binary.Tally]
  ) -> dict[str, binary.Tally]:
    """Adds the scores within groups to the tallies of all processes.

    Every process must call it. Tallies of data without groups stay as they
    are.
    """
    if not self._grouped:
      return dict(tallies)
    words = 2 + 2 * len(self._heads)
    if agreement.total(self._count) > MOST_GROUPED:
      self._rows.clear()
    own = np.concatenate([np.empty((0, words), np.int32), *self._rows])
    rows = agreement.joined(own)
    floats = rows.view(np.float32)
    scored = {}
    for head, name in enumerate(self._heads):
      labels = floats[:, 2 + 2 * head]
      known = ~np.isnan(labels)
      examples = grouped.Examples(
        rows[known, 0],
        floats[known, 3 + 2 * head],
        labels[known],
        floats[known, 1],
      )
      within = grouped.group_scores(examples)
      scored[name] = tallies[name]._replace(within=within)
    return scored
