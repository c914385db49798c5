"""The embedded default: a synthetic click log whose best AUC is known.

  python train.py --config=configs/synthetic.py --workdir=runs/synthetic

The log has eight sparse features, two of them bags of up to four and three
ids, and four dense features. Clicks are drawn from planted effects of single
features and of pairs (`dlrm_jax/synthetic/log.py`). 12.6 M examples are seen
once, in about a minute on two cores. The AUC is within 0.005 of the optimum,
which a model without interactions misses by 0.09.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default


def get_config() -> ConfigDict:
  """A small DLRM with Adam for its layers and Adagrad for its tables."""
  config = default.get_config()
  config.data.kind = 'synthetic'
  config.model.bottom = (64,)
  config.model.top = (64, 32)
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 0.002
  config.table_optimizer.name = 'adagrad'
  config.table_optimizer.learning_rate = 0.05
  # The second half of one epoch, 3,072 steps.
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.decay_start = 1536
    optimizer.decay_steps = 1536
    optimizer.decay_power = 1.0
  config.train.batch_size = 4096
  config.train.eval_every = 512
  config.train.checkpoint_every = 512
  return config
