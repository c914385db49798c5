"""All fields of a config, with their meaning and their default.

Other configs change a few of these fields. This one cannot be trained with,
since `data.dir` is empty. Any field can be set on the command line:
`--config.train.batch_size=2048`. A new field also needs an entry in
`dlrm_jax/config/kinds.py`, which says what a change of it means to a run that
is continued.
"""

import dataclasses

from ml_collections import ConfigDict

from dlrm_jax.build.network import model_fields
from dlrm_jax.synthetic.log import Synthetic


def _optimizer_fields(name: str, learning_rate: float) -> ConfigDict:
  return ConfigDict(
    {
      # sgd; adagrad (of torch: sums start at 0, eps outside of the root);
      # optax_adagrad (sums start at 0.1, eps inside of the root); adam (for
      # tables: only rows in the batch are updated); rowwise_adagrad (tables
      # only).
      'name': name,
      'learning_rate': learning_rate,
      # Schedule: the rate rises linearly in the first warmup_steps updates
      # (0: no warm-up), then stays, then falls as a polynomial from update
      # decay_start on and is 0 decay_steps updates later (decay_steps 0: no
      # decay). decay: polynomial, or cosine (its power 1 is the usual one).
      'decay': 'polynomial',
      'warmup_steps': 0,
      'decay_start': 0,
      'decay_steps': 0,
      'decay_power': 2.0,
      # adam: decay of the means of gradients and of their squares, and the
      # number that is added to the root.
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      # Decoupled decay (AdamW): weights shrink by this times the rate in each
      # update. Of tables: of the rows that move (see tables.update).
      'weight_decay': 0.0,
    }
  )


def get_config() -> ConfigDict:
  """All fields with their defaults."""
  config = ConfigDict()
  config.seed = 0  # of the initial values and of the order of examples

  config.data = ConfigDict()
  config.data.kind = 'prepared'  # or synthetic
  config.data.dir = ''  # prepared: folder that `dlrm_jax.prepare` wrote
  # synthetic: sizes and seed, see dlrm_jax.synthetic.log.Synthetic. `exponent`
  # is that of the power law of ids. `trace` is a file that `python -m
  # dlrm_jax.traces` wrote: its ids are imitated; empty: none. `tasks` 2:
  # labels click and conversion, which only a click can have. `size` multiplies
  # the rows of all tables.
  config.data.synthetic = ConfigDict(dataclasses.asdict(Synthetic()))
  # The columns of a raw log, for `dlrm_jax.prepare raw`; see docs/raw.md.
  config.data.raw = ConfigDict()
  # An epoch is cut into this many equal parts; a batch takes equally many
  # examples from each. train.batch_size must be a multiple of it.
  config.data.lanes = 8
  config.data.window = 16  # blocks of 4,096 examples shuffled together, a lane
  # What happens with ids that are not in their table: stop with an error, or
  # unknown: they become row 0, the unknown id, and are counted.
  config.data.out_of_range = 'stop'
  # Sets of `dlrm_jax.prepare implicit`: number of negatives that follow each
  # example of split train, with the same user, an item drawn uniformly, and
  # label 0; other ones in each epoch. train.batch_size counts them too.
  config.data.negatives = 0
  # Sizes of the full data set, for plans without it: number of dense features;
  # rows of each sparse feature, and ids an example of each (empty: 1 each).
  config.data.expected = ConfigDict({'dense': 0, 'rows': (), 'hotness': ()})

  config.model = ConfigDict()
  # dlrm, lr, fm, wide_deep, deepfm, dcn, mf, gmf, mlp, neumf, shared_bottom,
  # mmoe, esmm: docs/models.md explains each, and which of the fields below it
  # reads.
  config.model.name = 'dlrm'
  config.model.dim = 16  # D, the width of all vectors
  # Widths of the hidden layers of the MLP of dense features; its output has
  # width D.
  config.model.bottom = (512, 256, 64)
  # Widths of the hidden layers of the MLP after the interaction; its output is
  # the logit.
  config.model.top = (512, 256)
  # What normalises hidden layers: batch (over the whole batch, which a device
  # then computes in one piece), layer, or none.
  config.model.norm = 'none'
  config.model.dropout = 0.0  # of the outputs of hidden layers
  # L2 penalty of the kernels of layers: the loss has half of it times the sum
  # of their squares.
  config.model.l2 = 0.0
  # Number of models with tables of their own that are trained at once by the
  # sum of their losses, and score by the mean of their logits.
  config.model.branches = 1
  # Dense features as they are (none), or with mean 0, deviation 1 (standard).
  config.model.dense_scaling = 'none'
  # Of matrix products: float32, bfloat16, or int8, which scores only: python -m
  # dlrm_jax.quantize makes such a model of a trained one.
  config.model.compute_dtype = 'float32'
  # int8: limits of the codes of a layer's inputs: those of each example (row),
  # or those that calibration found for the layer (calibrated).
  config.model.activations = 'row'
  # int8: number of inputs of each layer, the largest, that stay float32.
  config.model.outliers = 0
  # Kernels of mostly zeros that a loaded model multiplies without them:
  # NAME=FORM, where FORM is 1x1, 1x16 or smaller. python -m dlrm_jax.quantize
  # chooses; docs/low-precision.md explains them.
  config.model.sparse = ()
  # Fields of one model each, such as config.model.dlrm.interaction: dot (inner
  # products of all pairs of vectors), dot_itself (those of each vector with
  # itself, too) or cat (the vectors side by side).
  for name, fields in model_fields().items():
    config.model[name] = ConfigDict(fields)

  config.tables = ConfigDict()
  # How an id becomes a vector: plain (each id has a row), hashed,
  # quotient_remainder, chinese_remainder, partitions (your own), tensor_train,
  # robe, mixed_dims, or auto (by the frequency of ids). docs/encodings.md
  # explains each. The fields down to multi_hot have an effect only under the
  # encodings named beside them.
  config.tables.encoding = 'plain'
  # hashed, *_remainder, partitions: how the vectors of the parts become one:
  # mult, add, concat, or path (parts choose small MLPs; not for hashed).
  config.tables.combine = 'mult'
  # Size, all but plain and partitions: how many times fewer parameters than
  # plain tables have.
  config.tables.compression = 4.0
  # Size, instead of compression: as many parameters as this number of rows of
  # width D has. 0: compression decides.
  config.tables.rows = 0
  # Tables with at most this many ids stay plain under every encoding; 0: none.
  config.tables.threshold = 200
  # Number of hashes, remainders, partitions, tensor-train cores or pieces of a
  # robe vector. 0: 1 hash, 2 remainders, 3 cores, 2 pieces.
  config.tables.parts = 0
  # *_remainder, instead of compression: number of rows of each part. One of
  # them may be 0: as many rows as are needed to tell all ids apart. Empty:
  # rows or compression decide.
  config.tables.buckets = ()
  config.tables.hidden = 16  # combine=path: width of the hidden layer of an MLP
  config.tables.rank = 8  # tensor_train: the rank is at most this
  # mixed_dims: a table of n ids has width D * (smallest n / n) ** alpha. 0: the
  # least alpha whose tables are as small as compression or rows say.
  config.tables.alpha = 0.0
  config.tables.partitions = ''  # partitions: MODULE:FUNCTION, or .csv, .npy
  # Bags of several ids, if rows are combined by mult: each id's vector is
  # combined and then pooled (combine_then_pool), or the rows of each part are
  # pooled and then combined (pool_then_combine, as facebookresearch/dlrm).
  config.tables.multi_hot = 'combine_then_pool'
  config.tables.pooling = 'sum'  # of the vectors of a bag; or mean
  # Initial values of a table with R rows: uniform in +-init_scale / sqrt(R), or
  # normal with deviation init_scale, which should then be small, such as 0.01.
  config.tables.init = 'uniform'
  config.tables.init_scale = 1.0
  # What an update moves: the rows that the batch reads (sparse), or every row
  # (dense; for small tables, of which each device then has a copy).
  config.tables.update = 'sparse'
  # How rows are kept: float32, bfloat16, float16, int8, int4 or int2, the last
  # three with a scale and a bias a row. Updates are rounded at random, so that
  # small ones are not lost. docs/low-precision.md says what each costs.
  config.tables.storage = 'float32'
  # How the optimizer's states of rows are kept: float32, or bfloat16, rounded
  # at random, too.
  config.tables.state = 'float32'
  # L2 penalty: the loss has half of it times the sum of squares of the rows
  # that an update moves.
  config.tables.l2 = 0.0
  # L2 penalty of the bags that a batch reads: the loss has half of it times the
  # mean over examples of the sum of their squares. So rows are penalised as
  # often as they are read.
  config.tables.bag_l2 = 0.0
  # S, the number of parts that tables are cut into; the number of devices must
  # divide it.
  config.tables.shards = 8
  # Where a table lives: auto (chosen by cost), row_wise (its rows dealt over
  # all shards), table_wise (whole, on one shard), table_row_wise (its rows
  # dealt over `spread` shards), column_wise (`columns` blocks of columns, each
  # on one shard), grid (`columns` blocks, each dealt over `spread` shards),
  # replicated (a copy on every device), or independent (a table for every
  # shard, which learns from the shard's part of the batches only).
  config.tables.placement = 'auto'
  config.tables.spread = 2  # table_row_wise, grid: number of shards
  config.tables.columns = 2  # column_wise, grid: number of blocks
  config.tables.memory = '16GB'  # memory of a device: the limit of auto
  # independent: after each so many steps the tables of all shards are replaced
  # by their mean. 0: never.
  config.tables.average_every = 0
  # Fields of single features: {'C3': {'encoding': 'hashed', 'rows': 1000}}. A
  # feature may have the fields from encoding to pooling, update, placement,
  # spread, columns, and `table`: features that name the same table share it.
  config.tables.features = ConfigDict(allow_dotted_keys=True)

  config.optimizer = _optimizer_fields('sgd', 0.1)  # of the layers
  config.table_optimizer = _optimizer_fields('sgd', 0.1)  # of table rows

  config.train = ConfigDict()
  config.train.loss = 'bce'  # cross entropy; or mse, squared error of clicks
  # Factors of the losses of the data's labels, in their order, in the sum that
  # is trained on. Empty: 1 each.
  config.train.label_weights = ()
  config.train.batch_size = 128
  # Examples that a device computes at a time, a divisor of its part of a
  # batch. Results are equal to rounding; fewer examples need less memory. 0:
  # about 1,024 on a CPU, the whole part on other devices.
  config.train.micro_batch = 0
  config.train.epochs = 1.0
  config.train.steps = 0  # number of updates; 0: as many as the epochs have
  # The norm of the gradients of layers and tables together is at most this; 0:
  # they are not clipped.
  config.train.clip = 0.0
  # Both learning rates are multiplied by `factor` after `patience` evaluations
  # in a row without a better objective, down to `least` of what they were.
  # patience 0: they are not.
  config.train.plateau = ConfigDict(
    {'patience': 0, 'factor': 0.1, 'least': 0.001}
  )
  # Kernels f32[in, out] of layers lose their least blocks of rows x columns
  # until the share `sparsity` of them is gone: at update `start` and every
  # `every` updates from there, at first many, the last after `steps`. sparsity
  # 0: they are not pruned. docs/low-precision.md has more.
  config.train.pruning = ConfigDict(
    {'sparsity': 0.0, 'block': '1x1', 'start': 1, 'steps': 0, 'every': 100}
  )
  # A run starts with the layers and tables that the best checkpoint of another
  # run has under the same names and in the same shapes, tables only where ids
  # have the same rows: its workdir, or several with commas between them.
  # Empty: everything is new.
  config.train.init_from = ''
  # Whether each epoch starts with new tables and keeps the layers (MEDA, arXiv
  # 2305.19531): from the second epoch on tables overfit, layers do not.
  config.train.fresh_tables = False
  config.train.log_every = 100  # steps, as all that end in _every
  config.train.eval_every = 10_240
  config.train.eval_batch_size = 16_384
  config.train.checkpoint_every = 10_240
  # The validation metric that chooses the best checkpoint and stops early: auc,
  # pr_auc, accuracy (higher is better), log_loss or ne (lower is better); for
  # data with groups also uauc and wuauc, AUCs within groups; for sets of
  # `dlrm_jax.prepare implicit` hr_10, ndcg_10 and mrr. Data with several
  # labels: LABEL/METRIC.
  config.train.objective = 'auc'
  # Whether the commands that train keep compiled programs in the user's cache
  # folder, so that the next start need not compile them; `dlrm_jax.train` in
  # Python leaves that to JAX's own settings.
  config.train.cache_programs = True
  config.train.keep = 2  # number of last checkpoints kept, beside the best one
  # Training stops after this many evaluations without a better objective; 0:
  # it never stops early.
  config.train.patience = 0
  return config
