"""AUC of a user-bias + movie-bias model on a prepared MovieLens set.

The model that a recommender has to beat: a logistic regression on who rates
and what is rated, fitted on the training rows. Its L2 penalty is the one with
the best validation AUC. Rows of users and movies never trained on have no bias.

  python -m benchmarks.movielens_baseline DIR
"""

import argparse
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_jax.data.prepared import Prepared, open_prepared
from dlrm_jax.errors import exit_cleanly

INVERSE_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Examples(NamedTuple):
  """A split.

  Attributes:
    features: sparse f32[n, users + movies], 1 where a bias counts.
    labels: f32[n].
  """

  features: scipy.sparse.csr_matrix
  labels: np.ndarray


def examples(prepared: Prepared, split: str) -> Examples:
  """Users and movies of a split, one-hot, without the unknown row 0."""
  source = prepared.source(split)
  blocks = [source[i] for i in range(len(source))]
  labels = np.concatenate([block.labels[:, 0] for block in blocks])
  ids = np.concatenate([block.ids for block in blocks])
  parts, start = [], 0
  for column in prepared.schema.sparse:
    if column.name in ('user', 'movie'):
      known = np.flatnonzero(ids[:, start] > 0)
      parts.append(
        scipy.sparse.csr_matrix(
          (np.ones(len(known), np.float32), (known, ids[known, start])),
          shape=(len(ids), column.rows),
        )
      )
    start += column.hotness
  return Examples(scipy.sparse.csr_matrix(scipy.sparse.hstack(parts)), labels)


def unseen(prepared: Prepared, split: str) -> dict[str, float]:
  """Shares of the examples whose user or movie has the unknown row 0."""
  source = prepared.source(split)
  ids = np.concatenate([source[i].ids for i in range(len(source))])
  # Each has one id, and they come before the bags.
  names = [column.name for column in prepared.schema.sparse]
  return {
    name: round(float(np.mean(ids[:, names.index(name)] == 0)), 4)
    for name in ('user', 'movie')
  }


def bias_baseline(prepared: Prepared) -> dict[str, float]:
  """Fits the biases; AUCs and log-loss of the penalty chosen."""
  train, validation, test = (
    examples(prepared, split) for split in ('train', 'validation', 'test')
  )
  fitted = []
  for inverse in INVERSE_PENALTIES:
    model = LogisticRegression(C=inverse, max_iter=1000)
    model.fit(train.features, train.labels)
    scores = model.decision_function(validation.features)
    auc = float(roc_auc_score(validation.labels, scores))
    fitted.append((auc, inverse, model))
  auc, inverse, model = max(fitted, key=lambda fit: fit[0])
  p = model.predict_proba(test.features)[:, 1]
  return {
    'inverse_penalty': inverse,
    'validation_auc': round(auc, 4),
    'test_auc': round(float(roc_auc_score(test.labels, p)), 4),
    'test_log_loss': round(float(log_loss(test.labels, p)), 4),
  }


@exit_cleanly
def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line of JSON."""
  parser = argparse.ArgumentParser(description='The baseline of MovieLens.')
  parser.add_argument('directory', help='a prepared MovieLens set')
  prepared = open_prepared(parser.parse_args(argv).directory)
  about = {
    'benchmark': 'movielens_baseline',
    'data': prepared.details['format']['source']['tfds'],
    'unseen': unseen(prepared, 'test'),
    'scikit-learn': sklearn.__version__,
  }
  print(json.dumps(about | bias_baseline(prepared)))


if __name__ == '__main__':
  raise SystemExit(main())
