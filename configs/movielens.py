r"""DLRM on MovieLens: will this user rate this movie 4 or more?

Prepare through TFDS (here the small set; 100k, 1m, 20m, 25m alike):

  python -m dlrm_jax.prepare movielens --name=latest-small-ratings \
    --input=ml-latest-small.zip --output=data/movielens
  python train.py --config=configs/movielens.py \
    --config.data.dir=data/movielens --workdir=runs/movielens

Split by time: the last tenth is the test. Expected on the small set, in a
quarter of a minute: AUC about 0.70, where biases of users and movies reach
0.669 (`python -m benchmarks.movielens_baseline data/movielens`). Nine of ten
test examples are of users never seen before.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default


def get_config() -> ConfigDict:
  """Wide shallow layers, small first values: most users are unknown."""
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
