r"""DLRM and DLRM-DCNv2 of MLPerf training on Criteo's 1TB click logs, D = 128.

Source: MLPerf v0.7 to v2.1 (bench/run_and_time.sh of facebookresearch/dlrm):
one id a feature, at most 40 M rows a table, SGD. Batch and schedule are those
of a reference convergence point published for v1.0: 32,768, rate 18. Target:
validation AUC 0.8025 within one epoch. 188 M rows, 96.1 GB: at least 8
devices of 16 GB.

  python -m dlrm_jax.plan --config=configs/criteo_mlperf.py --devices=8
  python -m dlrm_jax.prepare criteo --input day_{0..22}.gz \
    --validation_input=day_23.gz --output=data/mlperf
  python train.py --config=configs/criteo_mlperf.py \
    --config.data.dir=data/mlperf --workdir=runs/mlperf

Variant `dcnv2` (`--config=configs/criteo_mlperf.py:dcnv2`): DLRM-DCNv2 of
MLPerf since v3.0: 204 M rows, 214 ids an example, three stacked cross layers of
rank 512, batch 65,536, Adagrad 0.005 without a schedule. Target: validation AUC
0.80275 within one epoch. Its Adagrad adds 1e-8 to the root, this one 1e-10.
Variant `multihot` has the same tables and bags, the dot interaction instead of
the cross layers, and Adagrad 0.004. The data of both, with the synthetic bags
of the benchmark (4 TB; 23 GB of tables of bags are read at random while it is
prepared):

  FIRST=40000000,39060,17295,7424,20265,3,7122,1543,63,40000000,3067956,405282
  LAST=10,2209,11938,155,4,976,14,40000000,40000000,40000000,590152,12973,108,36
  python -m dlrm_jax.prepare criteo --input day_{0..22}.gz \
    --validation_input=day_23.gz --output=data/mlperf_multihot \
    --mode=torchrec --min_count=1 --num_embeddings=$FIRST,$LAST \
    --multi_hot=3,2,1,2,6,1,1,1,1,7,3,8,1,6,9,5,1,1,1,12,100,27,10,3,1,1
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

_ROWS = (
  *(39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951),
  *(2953546, 403346, 10, 2208, 11938, 155, 4, 976, 14, 39979771, 25641295),
  *(39664984, 585935, 12972, 108, 36),
)
_MULTIHOT_ROWS = (
  *(40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000),
  *(3067956, 405282, 10, 2209, 11938, 155, 4, 976, 14, 40000000, 40000000),
  *(40000000, 590152, 12973, 108, 36),
)
_MULTIHOT = (
  *(3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27),
  *(10, 3, 1, 1),
)


def get_config(variant: str = 'onehot') -> ConfigDict:
  """The benchmark with one id a feature, or with bags.

  Args:
    variant: `onehot`, `multihot` or `dcnv2`.
  """
  config = default.get_config()
  config.data.expected.dense = 13
  config.data.expected.rows = _ROWS
  config.model.dim = 128
  config.model.bottom = (512, 256)
  config.model.top = (1024, 1024, 512, 256)
  config.tables.encoding = 'hashed'
  config.tables.rows = 40_000_000
  config.train.batch_size = 32_768
  config.train.eval_batch_size = 65_536
  config.train.eval_every = 6_400  # twenty times an epoch
  config.train.checkpoint_every = 6_400
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.learning_rate = 18.0
    optimizer.warmup_steps = 8_000
    optimizer.decay_start = 70_000
    optimizer.decay_steps = 30_000
  if variant == 'onehot':
    return config
  if variant == 'multihot':
    return _multihot(config, 0.004)
  if variant != 'dcnv2':
    raise ValueError(f'variant {variant!r}: expected onehot, multihot or dcnv2')
  config.model.name = 'dcn'
  config.model.dcn.layers = 3
  config.model.dcn.rank = 512
  config.model.dcn.structure = 'stacked'
  return _multihot(config, 0.005)


def _multihot(config: ConfigDict, rate: float) -> ConfigDict:
  """Bags of up to 100 ids, Adagrad at a constant rate."""
  config.data.expected.rows = _MULTIHOT_ROWS
  config.data.expected.hotness = _MULTIHOT
  config.train.batch_size = 65_536
  config.train.eval_every = 3_200
  config.train.checkpoint_every = 3_200
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adagrad'
    optimizer.learning_rate = rate
    optimizer.warmup_steps = 0
    optimizer.decay_start = 0
    optimizer.decay_steps = 0
  return config
