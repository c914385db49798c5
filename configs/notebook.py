r"""The trainings of notebooks/, with all of their sizes.

  python train.py --config=configs/notebook.py:synthetic_tenth --workdir=runs/n

A variant is TRAINING_SIZE, `synthetic_full` by default. The trainings:

  | training     | data                       | model                          |
  |--------------|----------------------------|--------------------------------|
  | `synthetic`  | drawn, optimum known       | that of configs/synthetic.py   |
  | `compressed` | the same                   | tables of a third of the size  |
  | `movielens`  | MovieLens, latest-small    | that of configs/movielens.py   |
  | `criteo`     | the reader's own file      | `best` of Criteo, one epoch    |

The sizes: `full` for a TPU or a GPU, `tenth` for a CPU, `smoke` for tests. They
change how long is trained, not the step; MovieLens is small enough to be
trained whole on a CPU, so that its `tenth` is `full`. Data of `movielens` and
`criteo` is given by `config.data.dir`.
"""

import os

import jax
from ml_collections import ConfigDict

from dlrm_jax.configs import criteo_kaggle, movielens, synthetic
from dlrm_jax.errors import InputError

TRAININGS = ('synthetic', 'compressed', 'movielens', 'criteo')
SHARES = {'full': 1.0, 'tenth': 0.1, 'smoke': 0.002}
"""Share of the training that a size has."""


def choose_size() -> str:
  """The size for the devices of this process.

  The environment variable DLRM_JAX_NOTEBOOK_SIZE, where it is set, says which.
  """
  fitting = 'tenth' if jax.default_backend() == 'cpu' else 'full'
  chosen = os.environ.get('DLRM_JAX_NOTEBOOK_SIZE') or fitting
  if chosen not in SHARES:
    raise InputError(
      f'DLRM_JAX_NOTEBOOK_SIZE is {chosen!r}; expected {", ".join(SHARES)}'
    )
  return chosen


def get_config(variant: str = 'synthetic_full') -> ConfigDict:
  """A training of the notebooks.

  Args:
    variant: TRAINING_SIZE as above.
  """
  training, _, size = variant.partition('_')
  if training not in TRAININGS or size not in SHARES:
    known = (f'{first}_{last}' for first in TRAININGS for last in SHARES)
    raise ValueError(f'variant {variant!r}: expected {", ".join(known)}')
  if training == 'movielens':
    config = movielens.get_config()
    config.table_optimizer.name = 'rowwise_adagrad'
    config.table_optimizer.learning_rate = 0.02
    # Fewer would not tell films apart.
    config.train.epochs = 3.0 if size != 'smoke' else 0.1
    config.data.expected.dense = 3
    config.data.expected.rows = (523, 7868, 106, 21)
    config.data.expected.hotness = (1, 1, 1, 10)
    return config
  if training == 'criteo':
    config = criteo_kaggle.get_config('best')
    config.table_optimizer.name = 'rowwise_adagrad'
    config.train.batch_size = 1024
    config.train.epochs = 1.0
    config.train.steps = {'full': 0, 'tenth': 100, 'smoke': 2}[size]
    return config
  return _drawn(SHARES[size], compressed=training == 'compressed')


def _drawn(share: float, compressed: bool) -> ConfigDict:
  """A training on the synthetic log, of a share of its length."""
  config = synthetic.get_config()
  # One sum a row, so that tables take nearly all of the memory.
  config.table_optimizer.name = 'rowwise_adagrad'
  config.table_optimizer.learning_rate = 0.4
  config.train.epochs = share
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.decay_start = round(optimizer.decay_start * share)
    optimizer.decay_steps = round(optimizer.decay_steps * share)
  config.train.eval_every = max(round(256 * share), 1)
  config.train.checkpoint_every = config.train.eval_every
  config.train.log_every = max(round(100 * share), 1)
  if share < 0.01:
    config.data.synthetic.validation = config.data.synthetic.test = 2**13
  if compressed:
    config.tables.encoding = 'quotient_remainder'
    config.tables.compression = 4.0
  return config
