r"""Models on Frappe: which app will a user use in a context?

The data is Frappe_x1 of the BARS benchmark: CSV with a label and ten fields,
whose ids are numbered across fields.

  python -m dlrm_jax.prepare raw --config=configs/frappe.py \
    --input=train.csv --validation_input=valid.csv --test_input=test.csv \
    --output=data/frappe
  python train.py --config=configs/frappe.py:deepfm \
    --config.data.dir=data/frappe --workdir=runs/frappe

Variants `dlrm` (the default), `deepfm`, `dcn` and `fm` have the settings of
BARS: D = 10, layers 400-400-400 with batch normalisation and dropout, an L2
penalty of the tables, Adam 0.001, batch 4,096, a tenth of the rate after two
epochs that do not improve validation, and the end after four (BARS: one and
two, after which one seed in three falls too early). `plain` is the
DLRM without normalisation, dropout and penalty, and `lr` logistic regression;
`best` is the best single model that was found, and `branches` three of them
trained at once. `sparse` is `dlrm` with updates of the touched rows only.

BARS published for the test file: AUC 0.9840 and log-loss 0.144 of its DLRM,
0.9842 and 0.148 of DeepFM, 0.9845 and 0.149 of DCN-V2, 0.9671 and 0.207 of a
factorization machine, 0.9356 and 0.308 of logistic regression.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

_FIELDS = (
  *('user', 'item', 'daytime', 'weekday', 'isweekend', 'homework', 'cost'),
  *('weather', 'country', 'city'),
)
# Ids of each field in all three files.
_ROWS = (957, 4082, 7, 7, 2, 3, 2, 9, 80, 233)
_EPOCH = 49  # steps
_PENALTY_AND_DROPOUT = {
  'dlrm': (0.1, 0.4),
  'deepfm': (0.05, 0.2),
  'dcn': (0.05, 0.4),
  'fm': (5e-6, 0.0),
  'lr': (1e-5, 0.0),
}


def _bars(model: str) -> ConfigDict:
  """The settings of BARS for a model."""
  config = default.get_config()
  config.data.raw = ConfigDict(
    {
      'format': 'csv',
      'label': 'label',
      'sparse': _FIELDS,
      'values': 'integer',
    }
  )
  config.data.expected.rows = _ROWS
  config.model.name = model
  config.model.dim = 10
  config.model.top = (400, 400, 400)
  config.model.norm = 'batch'
  config.model.dlrm.interaction = 'cat'
  config.model.dcn.structure = 'parallel'
  config.model.dcn.layers = 4
  config.tables.l2, config.model.dropout = _PENALTY_AND_DROPOUT[model]
  config.tables.update = 'dense'
  config.tables.init = 'normal'
  config.tables.init_scale = 1e-4
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adam'
    optimizer.learning_rate = 0.001
  config.train.batch_size = 4096
  config.train.clip = 10.0
  config.train.epochs = 100.0
  config.train.eval_every = _EPOCH
  config.train.checkpoint_every = _EPOCH
  config.train.plateau.patience = 2
  config.train.patience = 4
  return config


def get_config(variant: str = 'dlrm') -> ConfigDict:
  """A variant, as the docstring of this file describes it."""
  if variant in _PENALTY_AND_DROPOUT:
    return _bars(variant)
  config = _bars('dlrm')
  if variant == 'plain':
    config.model.norm = 'none'
    config.model.dropout = 0.0
    config.tables.l2 = 0.0
  elif variant == 'sparse':
    config.tables.update = 'sparse'
  elif variant in ('best', 'branches'):
    config.model.dim = 20
    config.model.dropout = 0.2
    if variant == 'branches':
      config.model.branches = 3
      config.model.top = (256, 256, 256)
  else:
    raise ValueError(
      f'no variant {variant!r}; expected {", ".join(_PENALTY_AND_DROPOUT)}, '
      f'plain, sparse, best or branches'
    )
  return config
