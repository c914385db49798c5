"""Rows on their way from a file to their predictions."""

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.logs import ScorableRows
from dlrm_jax.scoring.predictions import predictions
from dlrm_jax.scoring.scorer import Scorer


@pytest.fixture
def scorer():
  """A scorer whose probability is the first id; four rows at once."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  made = Scorer(jax.jit(lambda x: x.ids[:, :1].astype('float32')), mesh)
  made.most = 4
  return made


def rows_of(good, first=0):
  """Rows of which some are good, whose ids count from `first` on."""
  good = np.array(good, bool)
  ids = np.arange(first, first + good.sum(), dtype=np.int32)[:, None]
  inputs = Inputs(np.zeros((len(ids), 0), np.float32), ids)
  return ScorableRows(inputs if len(ids) else None, good, None)


def test_each_row_has_its_own_prediction_whatever_the_pieces_are(scorer):
  chance, first, given = np.random.default_rng(0), 0, []
  for _ in range(60):
    good = chance.random(chance.integers(1, 12)) < chance.choice([0, 0.5, 1])
    given.append(rows_of(good, first))
    first += int(good.sum())
  found = list(predictions(scorer, given, 1))
  assert len(found) == len(given)
  for some, wanted in zip(found, given, strict=True):
    np.testing.assert_array_equal(some.good, wanted.good)
    ids = [] if wanted.inputs is None else wanted.inputs.ids[:, 0]
    np.testing.assert_array_equal(some.scores[:, 0], ids)


def test_no_more_than_a_few_bad_rows_wait_for_a_good_one(scorer):
  taken = 0

  def rows():
    nonlocal taken
    yield rows_of([True])
    while True:
      taken += 1
      yield rows_of([False] * 3)

  some = predictions(scorer, rows(), 1)
  for _ in range(3):
    next(some)
  assert taken < 30
  some.close()


def test_scores_that_are_not_finite_are_refused():
  def score(inputs):
    ids = inputs.ids[:, :1].astype('float32')
    return jax.numpy.where(ids == 3, np.nan, ids)

  scorer = Scorer(jax.jit(score), sharding.make_mesh(jax.devices()[:1]))
  scorer.most = 4
  assert len(list(predictions(scorer, [rows_of([1] * 3)], 1))) == 1
  with pytest.raises(InputError, match='of 1 of 4 rows are not finite'):
    list(predictions(scorer, [rows_of([1] * 6)], 1))
