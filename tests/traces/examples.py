"""Traces and measures that several tests of traces share."""

import dataclasses

import numpy as np

from dlrm_jax.data.schema import join
from dlrm_jax.traces.lru_stack import stack_distances
from dlrm_jax.traces.trace import Trace

PUBLISHED = '4, 2, 9, 7, 5, 1\n0, 1, 3, 4, 5\n0.5, 0.6, 0.8, 0.9, 1.0\n'
COLD = Trace(
  rows=2000,
  distances=(0, 1, 2, 10, 100, 200),
  cumulative=(0.01, 0.2, 0.3, 0.5, 0.9, 1.0),
)
BOTH = dataclasses.replace(COLD, hot=40, hot_share=0.6, exponent=1.3)


def hit_rates(ids, sizes):
  """Hit rates of LRU caches of these sizes."""
  distances = stack_distances(ids)
  return np.array([np.mean((distances > 0) & (distances <= s)) for s in sizes])


def assert_drawn_from(counts, probabilities):
  """Counts are within five standard deviations of what is expected."""
  expected = counts.sum() * probabilities
  assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected) + 5)


def whole(source, blocks):
  """Blocks of a source, joined."""
  return join([source[block] for block in blocks])
