r"""Which item will a user choose next? On lists of items, as in the NCF paper.

python -m dlrm_jax.prepare implicit --input=ml-1m.train.rating \
    --output=data/ml1m
python train.py --config=configs/ncf.py:mf --config.data.dir=data/ml1m \
    --workdir=runs/mf
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default


def get_config() -> ConfigDict:
  """Settings."""
  config = default.get_config()
  config.data.negatives = 4
  config.model.dim = 32
  config.model.bottom = ()
  config.model.top = ()
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adam'
    optimizer.learning_rate = 0.001
  config.train.batch_size = 4000
  config.train.epochs = 2.0
  config.train.eval_every = 600
  config.train.checkpoint_every = 600
  config.train.objective = 'ndcg_10'
  return config
