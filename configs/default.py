"""Every field there is, with what it means; other configs change a few.

Not a config to train with: `data.dir` is empty. Any field can be set on the
command line: `--config.train.batch_size=2048`. A new field needs its kind in
`dlrm_jax/kinds.py`: what its change means to a run that goes on.
"""

import dataclasses

from ml_collections import ConfigDict

from dlrm_jax.synthetic.log import Synthetic


def _optimizer(name: str, learning_rate: float) -> ConfigDict:
  return ConfigDict(
    {
      # sgd; adagrad (torch's: from 0, epsilon outside of the root);
      # optax_adagrad (from 0.1, inside); adam (lazy for tables); and for
      # tables only rowwise_adagrad.
      'name': name,
      'learning_rate': learning_rate,
      # The schedule of MLPerf's DLRM: linear warm-up, hold, and from update
      # decay_start a polynomial decay to 0. 0 steps: none.
      'warmup_steps': 0,
      'decay_start': 0,
      'decay_steps': 0,
      'decay_power': 2.0,
    }
  )


def get_config() -> ConfigDict:
  """All fields with their defaults."""
  config = ConfigDict()
  config.seed = 0  # of the first values and of the shuffle

  config.data = ConfigDict()
  config.data.kind = 'prepared'  # or 'synthetic'
  config.data.dir = ''  # prepared: what `dlrm_jax.prepare` wrote
  # synthetic: fields of dlrm_jax.synthetic.log.Synthetic. exponent: of the
  # power law of ids; or trace: a file of `python -m dlrm_jax.traces`.
  config.data.synthetic = ConfigDict(dataclasses.asdict(Synthetic()))
  # What the columns of a raw log are, for `dlrm_jax.prepare raw`: docs/raw.md.
  config.data.raw = ConfigDict()
  config.data.lanes = 8  # parts read independently; divide the batch sizes
  config.data.window = 16  # blocks of 4,096 shuffled together, a lane
  # Ids that their tables do not have: stop with an error, or unknown: they
  # become row 0, the unknown one, and are counted.
  config.data.out_of_range = 'stop'
  # Sizes of the full data set, for plans made without it: dense features, and
  # of every sparse feature rows and hotness (empty: 1 id each).
  config.data.expected = ConfigDict({'dense': 0, 'rows': (), 'hotness': ()})

  config.model = ConfigDict()
  config.model.dim = 16  # D, the width of all vectors
  config.model.bottom = (512, 256, 64)  # hidden layers; D follows
  config.model.top = (512, 256)  # hidden layers; the logit follows
  config.model.dense_scaling = 'none'  # or standard: mean 0, deviation 1
  config.model.interaction = 'dot'  # dot, dot_itself or cat
  config.model.compute_dtype = 'float32'  # of matrix products; or bfloat16

  config.tables = ConfigDict()
  # How ids become vectors; docs/encodings.md has pictures. plain (a row an
  # id), hashed, quotient_remainder, chinese_remainder, partitions (yours),
  # tensor_train, robe, mixed_dims, or auto: chosen by how often ids are seen.
  config.tables.encoding = 'plain'
  # Vectors of parts become one: mult, add, concat, or path (MLPs).
  config.tables.combine = 'mult'
  config.tables.compression = 4.0  # times fewer parameters than plain
  config.tables.rows = 0  # or as many parameters as so many plain rows
  config.tables.threshold = 200  # tables of so many ids, or fewer, stay plain
  config.tables.parts = 0  # partitions, hashes, cores; 0: the usual number
  config.tables.buckets = ()  # of each partition; one may be 0: what it takes
  config.tables.hidden = 16  # path: width of the MLPs
  config.tables.rank = 8  # tensor_train: at most
  config.tables.alpha = 0.0  # mixed_dims: power of the law; 0: solved
  config.tables.partitions = ''  # MODULE:FUNCTION, FILE.csv or FILE.npy
  # Bags of several ids, mult only: or pool_then_combine, as the reference.
  config.tables.multi_hot = 'combine_then_pool'
  config.tables.pooling = 'sum'  # of bags; or mean
  config.tables.init_scale = 1.0  # of the first values, U(+-scale sqrt(1/R))
  config.tables.shards = 8  # S, parts of the tables; devices divide it
  # Where tables live: auto (chosen by cost), row_wise (rows dealt over all
  # shards), table_wise (on one), table_row_wise (over `spread` of them),
  # column_wise (`columns` blocks, each on one), grid (each over `spread`),
  # replicated (a copy on every device), independent (a table of its own for
  # every shard, which learns from its part of the batches only).
  config.tables.placement = 'auto'
  config.tables.spread = 2
  config.tables.columns = 2
  config.tables.memory = '16GB'  # of a device, for auto
  # independent: steps between averages of all shards' tables; 0: never.
  config.tables.average_every = 0
  # By feature: {'C3': {'encoding': ..., 'rows': ...}}: all fields from
  # encoding to columns, and table: features that name one table share it.
  config.tables.features = ConfigDict(allow_dotted_keys=True)

  config.optimizer = _optimizer('sgd', 0.1)
  config.table_optimizer = _optimizer('sgd', 0.1)

  config.train = ConfigDict()
  config.train.loss = 'bce'  # or mse, of the probability
  config.train.batch_size = 128
  # Examples that a device computes at a time, a divisor of its part of a
  # batch; 0: on a CPU pieces of about 1,024, elsewhere all at once. The result
  # is the same to rounding, the memory of activations is not.
  config.train.micro_batch = 0
  config.train.epochs = 1.0
  config.train.steps = 0  # 0: as many as the epochs have
  # Each epoch starts with new tables, and the layers it has (MEDA, arXiv
  # 2305.19531): tables overfit from the second epoch on, layers do not.
  config.train.fresh_tables = False
  config.train.log_every = 100
  config.train.eval_every = 10_240
  config.train.eval_batch_size = 16_384
  config.train.checkpoint_every = 10_240
  # The validation metric that chooses the best checkpoint and stops early:
  # auc, pr_auc, accuracy (higher is better), log_loss or ne (lower is).
  config.train.objective = 'auc'
  config.train.keep = 2  # last checkpoints, beside the best by the objective
  config.train.patience = 0  # evaluations without gain; 0: no early stop
  return config
