r"""DLRM and other models on Criteo's Kaggle display-advertising log.

Source: bench/dlrm_s_criteo_kaggle.sh of facebookresearch/dlrm: SGD 0.1,
batch 128, one epoch, D = 16. Prepare the log first:

  python -m dlrm_jax.prepare criteo --input=train.txt --output=data/kaggle
  python train.py --config=configs/criteo_kaggle.py \
    --config.data.dir=data/kaggle --workdir=runs/kaggle

The reference reaches an accuracy of 0.789 on the test part of all 45.8 M rows
after 306,969 steps. On a sample of 100,573 training rows the AUC is 0.71.

Variant `best` (`--config=configs/criteo_kaggle.py:best`) has the settings that
were best for that sample, chosen on the last seventh of its training rows, with
an AUC of 0.76; prepare with `--min_count=2`. On the full log one epoch is
enough: `--config.train.epochs=1`. Variants `lr`, `fm`, `wide_deep`, `deepfm`,
`dcn` and `dlrm` are these models with the settings of `best`, which is a DLRM.
Variant `branches` trains four of `best` at once: the best of all that are here,
with an AUC of 0.763 on the sample, for four times the memory and the time.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

# Ids of each feature in the full log.
_ROWS = (
  *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683),
  *(8351593, 3194, 27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15),
  *(286181, 105, 142572),
)
_MODELS = ('lr', 'fm', 'wide_deep', 'deepfm', 'dcn', 'dlrm')


def get_config(variant: str = 'reference') -> ConfigDict:
  """The settings of the reference, or the best known settings.

  Args:
    variant: `reference`, `best`, `branches`, or the name of a model.
  """
  config = default.get_config()
  config.data.expected.dense = 13
  config.data.expected.rows = _ROWS
  if variant == 'reference':
    return config
  if variant in _MODELS:
    config.model.name = variant
  elif variant == 'branches':
    config.model.branches = 4
  elif variant != 'best':
    raise ValueError(
      f'variant {variant!r}: expected reference, best, branches, '
      f'{", ".join(_MODELS)}'
    )
  return _best(config)


def _best(config: ConfigDict) -> ConfigDict:
  """Adagrad, standardised dense features, small initial rows, new tables."""
  config.model.dense_scaling = 'standard'
  config.tables.init_scale = 0.01
  config.optimizer.name = 'adagrad'
  config.optimizer.learning_rate = 0.005
  config.table_optimizer.name = 'adagrad'
  config.table_optimizer.learning_rate = 0.02
  config.train.batch_size = 64
  config.tables.bag_l2 = 1e-5
  config.train.epochs = 4.0
  config.train.fresh_tables = True
  return config
