r"""DLRM on MovieLens: will this user rate this movie 4 or more?

Prepare the small set (100k, 1m, 20m and 25m likewise):

  python -m dlrm_jax.prepare movielens --name=latest-small-ratings \
    --input=ml-latest-small.zip --output=data/movielens
  python train.py --config=configs/movielens.py \
    --config.data.dir=data/movielens --workdir=runs/movielens

Splits are by time; the last tenth is the test part. On the small set the AUC is
about 0.70 after a quarter of a minute; biases of users and movies alone reach
0.669 (`python -m benchmarks.movielens_baseline data/movielens`). In nine of ten
test examples the user is new.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default


def get_config() -> ConfigDict:
  """Wide shallow layers and small initial rows, as most users are unknown."""
  config = default.get_config()
  config.model.dim = 8
  config.model.bottom = (64,)
  config.model.top = (64,)
  config.model.dense_scaling = 'standard'
  config.tables.init_scale = 0.1
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adagrad'
    optimizer.learning_rate = 0.01
  config.train.batch_size = 256
  config.train.epochs = 3.0
  config.train.eval_every = 79
  config.train.checkpoint_every = 79
  return config
