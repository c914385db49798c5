r"""Which item does a user take next? Matrix factorisation and NCF on ML-1M.

The files are those of He et al., "Neural Collaborative Filtering", arXiv
1708.05031: a line `user item rating time`, between tabs.

  python -m dlrm_jax.prepare implicit --input=ml-1m.train.rating \
    --output=data/ml1m
  python train.py --config=configs/ncf.py:mf --config.data.dir=data/ml1m \
    --workdir=runs/mf
  python -m dlrm_jax.evaluate --workdir=runs/mf --data=ml-1m.test.rating \
    --candidates=ml-1m.test.negative

docs/ranking.md says what is measured.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default


def _common() -> ConfigDict:
  config = default.get_config()
  config.model.bottom = ()
  config.model.top = ()
  config.tables.init = 'normal'
  config.tables.update = 'dense'
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adam'
    optimizer.learning_rate = 0.001
  config.train.objective = 'ndcg_10'
  return config


def _mf(config: ConfigDict) -> None:
  config.data.negatives = 8
  config.model.dim = 64
  config.tables.init_scale = 0.1
  config.tables.l2 = 1e-6
  config.train.batch_size = 9 * 2048
  config.train.epochs = 40.0


def _ncf(config: ConfigDict) -> None:
  config.data.negatives = 4
  config.model.dim = 32
  config.tables.init_scale = 0.01


_VARIANTS = {'mf': _mf, 'gmf': _ncf, 'mlp': _ncf, 'neumf': _ncf}


def get_config(variant: str = 'mf') -> ConfigDict:
  """The settings of a variant: mf, gmf, mlp or neumf."""
  config = _common()
  config.model.name = variant
  _VARIANTS[variant](config)
  return config
