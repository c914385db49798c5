"""A synthetic click log whose best possible AUC is known."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  """The embedded default job."""
  config = default.get_config()
  config.data.kind = 'synthetic'
  config.model.bottom = (64,)
  config.model.top = (128, 64)
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 0.002
  config.table_optimizer.name = 'adam'
  config.table_optimizer.learning_rate = 0.01
  config.train.batch_size = 4096
  config.train.steps = 300
  config.train.eval_every = 100
  config.train.checkpoint_every = 100
  config.train.log_every = 20
  return config
