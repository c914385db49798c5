"""Every config that comes with the package, in every variant."""

import importlib

from configs import notebook
from dlrm_jax.build.data import open_schema
from dlrm_jax.data.schema import Column, Scale, Schema

_OF_CRITEO = 'reference best branches lr fm wide_deep deepfm dcn dlrm'
_OF_FRAPPE = 'dlrm deepfm dcn fm lr plain sparse best branches'
VARIANTS = {
  'avazu': (),
  'criteo_kaggle': tuple(_OF_CRITEO.split()),
  'criteo_mlperf': ('onehot', 'multihot', 'dcnv2'),
  'criteo_terabyte': (),
  'frappe': tuple(_OF_FRAPPE.split()),
  'movielens': (),
  'multitask': ('shared_bottom', 'mmoe', 'esmm'),
  'ncf': ('mf', 'gmf', 'mlp', 'neumf', 'pretrained'),
  'notebook': tuple(
    f'{training}_{size}'
    for training in notebook.TRAININGS
    for size in notebook.SHARES
  ),
  'rmc': ('rmc1', 'rmc2', 'rmc3'),
  'synthetic': (),
}
"""Variants of each file of configs/ but the one of the defaults."""

NAMES = [
  name
  for file, variants in VARIANTS.items()
  for name in (file, *(f'{file}:{variant}' for variant in variants))
]
"""Words as behind `--config=`: with the variant, or without for the default."""

_UNKNOWN = Schema((), (Column('user', 600), Column('genres', 20, 10)))


def load(name):
  """The config of a name."""
  file, *variant = name.split(':')
  return importlib.import_module(f'configs.{file}').get_config(*variant)


def schema_of(config):
  """The columns that a config expects; some where it does not say which."""
  if config.data.kind == 'prepared' and not config.data.expected.rows:
    return _UNKNOWN, Scale((), ())
  return open_schema(config)
