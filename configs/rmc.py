r"""RMC1, RMC2, RMC3: three classes of production models, on a synthetic log.

  python -m dlrm_jax.plan --config=configs/rmc.py:rmc1
  python train.py --config=configs/rmc.py:rmc1 --workdir=runs/rmc1 \
    --config.data.synthetic.size=0.01

Variants, each a DLRM whose vectors are put side by side (interaction `cat`):

  | variant | bottom MLP       | top MLP   | tables x rows | D  | ids a bag |
  |---------|------------------|-----------|---------------|----|-----------|
  | `rmc1`  | 128-64-32        | 256-64-1  | 8 x 4,000,000 | 32 | 80        |
  | `rmc2`  | 256-128-64       | 128-64-1  | 32 x 500,000  | 64 | 120       |
  | `rmc3`  | 2560-1024-256-32 | 512-256-1 | 10 x 2,000,000| 32 | 20        |

The first number of a bottom MLP is that of the dense features. Tables have
4.1, 4.1 and 2.6 GB; `data.synthetic.size` multiplies the rows of all of them,
so that they fit into less memory. Every bag has as many ids as the table says.
Ids have a power law (`data.synthetic.exponent`), or imitate those of a log
(`data.synthetic.trace`, docs/traces.md), whose features then replace those of
the table.

Lookups take most of the time of `rmc1` and `rmc2`, the MLPs that of `rmc3`.
The classes are to be compared with each other; none is one service's model.

Source: Gupta et al., "The Architectural Implications of Facebook's DNN-based
Personalized Recommendation", arXiv 1906.03109, whose table 1 gives ratios; the
numbers are those of the configs dlrm_rm1, dlrm_rm2 and dlrm_rm3 of DeepRecSys
(Gupta et al., arXiv 2001.02772).
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.configs import default


class _Sizes(NamedTuple):
  """Sizes of a class; the bottom MLP ends in width `dim`, the top MLP in 1."""

  dense: int
  bottom: tuple[int, ...]
  top: tuple[int, ...]
  tables: int
  rows: int
  dim: int
  lookups: int


_SIZES = {
  'rmc1': _Sizes(128, (64,), (256, 64), 8, 4_000_000, 32, 80),
  'rmc2': _Sizes(256, (128,), (128, 64), 32, 500_000, 64, 120),
  'rmc3': _Sizes(2560, (1024, 256), (512, 256), 10, 2_000_000, 32, 20),
}


def get_config(variant: str = 'rmc1') -> ConfigDict:
  """A class of models, by its name.

  Args:
    variant: `rmc1`, `rmc2` or `rmc3`.
  """
  if variant not in _SIZES:
    raise ValueError(
      f'variant {variant!r}: expected one of {", ".join(_SIZES)}'
    )
  sizes = _SIZES[variant]
  config = default.get_config()
  config.data.kind = 'synthetic'
  config.data.synthetic.train = 1_048_576
  config.data.synthetic.validation = 16_384
  config.data.synthetic.test = 16_384
  config.data.synthetic.dense = sizes.dense
  config.data.synthetic.tables = (sizes.rows,) * sizes.tables
  config.data.synthetic.hotness = (sizes.lookups,) * sizes.tables
  config.data.synthetic.full_bags = True
  config.data.window = 1  # a block of rmc2 has 63 MB of ids
  config.model.dim = sizes.dim
  config.model.bottom = sizes.bottom
  config.model.top = sizes.top
  config.model.dlrm.interaction = 'cat'
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 0.001
  config.table_optimizer.name = 'rowwise_adagrad'
  # Popular ids are many times in a bag, whose sum moves as often.
  config.table_optimizer.learning_rate = 0.1 / sizes.lookups
  config.train.batch_size = 1024
  config.train.eval_batch_size = 2048
  config.train.eval_every = 256
  config.train.checkpoint_every = 1024
  return config
