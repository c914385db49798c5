"""A config of a small job on synthetic data, for tests of whole runs."""

from configs import synthetic


def get_config():
  """Seconds of training: small tables, small layers, few examples."""
  config = synthetic.get_config()
  config.data.synthetic.train = 10_000
  config.data.synthetic.validation = 3_000
  config.data.synthetic.test = 5_000
  config.data.synthetic.tables = (50, 40, 30, 30)
  config.data.synthetic.hotness = (1, 1, 3, 1)
  config.model.dim = 4
  config.model.bottom = (8,)
  config.model.top = (8,)
  config.train.batch_size = 256
  config.train.steps = 60
  config.train.fresh_tables = True  # in the midst of the run, at step 39
  config.train.log_every = 7
  config.train.eval_every = 20
  config.train.checkpoint_every = 5
  config.train.eval_batch_size = 2048
  return config
