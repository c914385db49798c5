r"""DLRM on Criteo's 1TB click logs (24 days), hashed to 10 M rows a feature.

Source: bench/dlrm_s_criteo_terabyte.sh of facebookresearch/dlrm: SGD 0.1,
batch 2048, one epoch, D = 64. Prepare the days in order, the last two for
validation and test:

  python -m dlrm_jax.prepare criteo --input day_{0..21}.gz \
    --validation_input=day_22.gz --test_input=day_23.gz \
    --hash_rows=10000000 --output=data/terabyte
  python train.py --config=configs/criteo_terabyte.py \
    --config.data.dir=data/terabyte --workdir=runs/terabyte

The reference reaches an accuracy of 0.811 on a log that keeps one of eight
non-clicks. The tables of a hashed log have 26 x 10 M rows, 66.6 GB at D = 64;
with vocabularies instead of --hash_rows, the same config hashes only features
with more ids than `tables.rows`: 49 M rows, 12.6 GB.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

# Ids of each feature; those with more than 10 M ids are hashed.
_ROWS = (
  *(9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352),
  *(313829, 10, 2208, 11156, 122, 4, 970, 14, 9994222, 7267859, 9946608),
  *(415421, 12420, 101, 36),
)


def get_config() -> ConfigDict:
  """The settings of the reference."""
  config = default.get_config()
  config.data.expected.dense = 13
  config.data.expected.rows = _ROWS
  config.model.dim = 64
  config.model.bottom = (512, 256)
  config.model.top = (512, 512, 256)
  config.tables.encoding = 'hashed'
  config.tables.rows = 10_000_000
  config.train.batch_size = 2048
  config.train.log_every = 1000
  config.train.eval_every = 102_400
  config.train.checkpoint_every = 102_400
  return config
