"""Weights of the ids of a bag, whose mean they may be."""

import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import (
  Feature,
  Pooling,
  mean_pooled,
  weights_of,
)
from dlrm_jax.embedding.table import Table

MEAN = Feature('m', Plain(Table('t', 9, 2)), 3, Pooling.MEAN)
SUM = Feature('s', Plain(Table('t', 9, 2)), 3)


@pytest.mark.parametrize(
  ('given', 'want'),
  [
    ([1.0, 3.0, 5.0], [0.25, 0.75, 0.0]),  # the third is no id
    ([0.0, 0.0, 1.0], [0.0, 0.0, 0.0]),
    ([1e-39, 1e-40, 1.0], [0.0, 0.0, 0.0]),
    ([1e-30, 3e-30, 0.0], [0.25, 0.75, 0.0]),
  ],
)
def test_a_mean_never_divides_by_what_is_too_small(given, want):
  ids = jnp.array([[1, 2, PAD]], jnp.int32)
  weights = jnp.array([given], jnp.float32)
  found = weights_of((MEAN,), [ids], weights)[0]
  np.testing.assert_allclose(found[0], want, rtol=1e-6)


def test_only_weights_of_means_must_not_be_negative():
  assert mean_pooled((MEAN, SUM)) == ('m',)
