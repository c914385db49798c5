r"""Which item does a user take next? Matrix factorisation and NCF.

The files are those of He et al., "Neural Collaborative Filtering", arXiv
1708.05031: a line `user item rating time`, between tabs.

  python -m dlrm_jax.prepare implicit --input=ml-1m.train.rating \
    --output=data/ml1m
  python train.py --config=configs/ncf.py:mf --config.data.dir=data/ml1m \
    --workdir=runs/mf
  python -m dlrm_jax.evaluate --workdir=runs/mf --data=ml-1m.test.rating \
    --candidates=ml-1m.test.negative

Variant `mf` (the default) is matrix factorisation with biases, wide vectors, 8
negatives and a penalty of what a batch reads, which beats NeuMF: Rendle et al.,
"Neural Collaborative Filtering vs. Matrix Factorization Revisited", arXiv
2005.09683. `gmf` has the same settings with D = 128; `mlp` and `neumf` have 4
negatives and the layers of He et al., 128, 64 and 32. `pretrained` is a NeuMF
that starts from runs of both in runs/gmf and runs/mlp, or elsewhere:

  python train.py --config=configs/ncf.py:pretrained \
    --config.data.dir=data/ml1m --config.train.init_from=runs/gmf,runs/mlp \
    --workdir=runs/pretrained

Learning rates fall to 0 at the end of so many epochs of ML-1M; on other data,
or with other epochs or batches, set `optimizer.decay_steps` and
`table_optimizer.decay_steps` to the number of steps. docs/models.md has the
results.

They published for the last items of ML-1M, HR@10 and NDCG@10 among 99 items:
0.729 and 0.452 of MF with D = 192; 0.701 and 0.425 of NeuMF, 0.726 and 0.445 of
one that starts from GMF and MLP. docs/ranking.md says what is measured.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

_ROWS = (6041, 3705)  # of ML-1M, without the last item of each user
_POSITIVES = 988_129  # of split train


def _set_rate(config: ConfigDict, rate: float) -> None:
  """A learning rate that falls to 0 at the end, as half a cosine."""
  epochs, positives = config.train.epochs, config.train.batch_size
  positives //= 1 + config.data.negatives
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adam'
    optimizer.learning_rate = rate
    optimizer.decay = 'cosine'
    optimizer.decay_steps = round(epochs * _POSITIVES / positives)
    optimizer.decay_power = 1.0


def _common(model: str, negatives: int, positives: int) -> ConfigDict:
  """What all variants share.

  Args:
    model: name of the model.
    negatives: number of negatives of each positive.
    positives: number of positives in a batch.
  """
  config = default.get_config()
  config.data.expected.rows = _ROWS
  config.data.negatives = negatives
  config.model.name = model
  config.tables.init = 'normal'
  config.tables.init_scale = 0.01
  config.tables.update = 'dense'
  config.train.batch_size = positives * (1 + negatives)
  epoch = _POSITIVES // positives
  config.train.eval_every = epoch
  config.train.checkpoint_every = epoch
  config.train.epochs = 20.0
  config.train.objective = 'ndcg_10'
  return config


def get_config(variant: str = 'mf') -> ConfigDict:
  """The settings of a variant: mf, gmf, mlp, neumf or pretrained."""
  if variant == 'mf':
    return _factors('mf', dim=192)
  if variant not in ('gmf', 'mlp', 'neumf', 'pretrained'):
    raise ValueError(
      f'variant {variant!r}: expected mf, gmf, mlp, neumf or pretrained'
    )
  if variant == 'gmf':
    return _factors('gmf', dim=128)
  model = 'neumf' if variant == 'pretrained' else variant
  config = _common(model, negatives=4, positives=512)
  config.model.dim = 128
  config.model.bottom = ()
  config.model.top = (128, 64, 32)
  config.tables.bag_l2 = 0.005
  config.train.epochs = 12.0
  if variant == 'pretrained':
    config.train.init_from = 'runs/gmf,runs/mlp'
    config.train.epochs = 1.0
    config.train.eval_every //= 8
    config.train.checkpoint_every = config.train.eval_every
  _set_rate(config, 3e-5 if variant == 'pretrained' else 0.002)
  return config


def _factors(model: str, dim: int) -> ConfigDict:
  """Large batches, wide vectors and a penalty of what the batches read."""
  config = _common(model, negatives=8, positives=2048)
  config.model.dim = dim
  config.model.l2 = 2e-4 if model == 'gmf' else 0.0
  config.tables.init_scale = 0.1
  config.tables.bag_l2 = 0.005
  config.train.epochs = 24.0
  _set_rate(config, 0.003)
  return config
