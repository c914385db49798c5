r"""DLRM on Frappe: which app will a user use in a context?

The data is Frappe_x1 of the BARS benchmark: CSV with a label and ten fields,
whose ids are numbered across fields.

  python -m dlrm_jax.prepare raw --config=configs/frappe.py \
    --input=train.csv --validation_input=valid.csv --test_input=test.csv \
    --output=data/frappe
  python train.py --config=configs/frappe.py \
    --config.data.dir=data/frappe --workdir=runs/frappe

BARS published for the test file: AUC 0.9840 and log-loss 0.144 of its DLRM,
0.9356 and 0.308 of logistic regression, 0.9671 and 0.207 of a factorisation
machine. This config equals BARS's DLRM (D = 10, interaction `cat`, top layers
of 400, Adam 0.001, batch 4,096) without its batch normalisation, dropout 0.4
and L2 penalty of the tables, so expect less.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

_FIELDS = (
  *('user', 'item', 'daytime', 'weekday', 'isweekend', 'homework', 'cost'),
  *('weather', 'country', 'city'),
)
# Ids of each field in all three files.
_ROWS = (957, 4082, 7, 7, 2, 3, 2, 9, 80, 233)


def get_config() -> ConfigDict:
  """The settings of BARS, as far as this project has them."""
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
  config.model.dim = 10
  config.model.top = (400, 400, 400)
  config.model.interaction = 'cat'
  config.tables.init_scale = 0.01
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.name = 'adam'
    optimizer.learning_rate = 0.001
  config.train.batch_size = 4096
  config.train.epochs = 10.0
  config.train.eval_every = 49
  config.train.checkpoint_every = 49
  config.train.patience = 2
  return config
