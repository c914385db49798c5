r"""DLRM on Avazu: Kaggle's click-through-rate prediction, ten days of 2014.

The competition's train.csv (40.4 M rows in time order), as it is:

  python -m dlrm_jax.prepare raw --config=configs/avazu.py \
    --input=train.csv --output=data/avazu
  python train.py --config=configs/avazu.py \
    --config.data.dir=data/avazu --workdir=runs/avazu

`id` is left out, since it differs in every row. `hour` (YYMMDDHH) is the time
and no feature, since test hours are later than all hours of training. The
settings are not tuned on this log, and no published result is known.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import default

_HEX = (
  *('site_id', 'site_domain', 'site_category'),
  *('app_id', 'app_domain', 'app_category'),
  *('device_id', 'device_ip', 'device_model'),
)
_INTEGERS = (
  *('C1', 'banner_pos', 'device_type', 'device_conn_type'),
  *('C14', 'C15', 'C16', 'C17', 'C18', 'C19', 'C20', 'C21'),
)


def get_config() -> ConfigDict:
  """A DLRM with sparse features only, trained for one epoch."""
  config = default.get_config()
  config.data.raw = ConfigDict(
    {
      'format': 'csv',
      'label': 'click',
      'sparse': dict.fromkeys(_HEX, 'hex')
      | dict.fromkeys(_INTEGERS, 'integer'),
      'time': 'hour',
    }
  )
  config.model.top = (400, 400)
  config.tables.init_scale = 0.01
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 0.001
  config.table_optimizer.name = 'adagrad'
  config.table_optimizer.learning_rate = 0.02
  config.train.batch_size = 4096
  return config
