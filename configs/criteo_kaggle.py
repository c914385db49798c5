"""DLRM on Criteo's Kaggle display-advertising log.

Source: bench/dlrm_s_criteo_kaggle.sh of facebookresearch/dlrm: SGD 0.1,
batch 128, one epoch, D = 16. Prepare the log first:

  python -m dlrm_jax.prepare criteo --input=train.txt --output=data/kaggle
  python train.py --config=configs/criteo_kaggle.py \
    --config.data.dir=data/kaggle --workdir=runs/kaggle

Expected of the reference on all 45.8 M rows: accuracy 0.789 on the test
split after 306,969 steps. Variant `best`: `--config=...kaggle.py:best`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(variant: str = 'reference') -> ConfigDict:
  """The reference's settings, or `best`: the best known ones."""
  config = default.get_config()
  if variant == 'best':
    config.optimizer.name = 'adagrad'
    config.optimizer.learning_rate = 0.01
    config.table_optimizer.name = 'adagrad'
    config.table_optimizer.learning_rate = 0.01
  elif variant != 'reference':
    raise ValueError(f'variant {variant!r}: expected reference or best')
  return config
