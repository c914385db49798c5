"""DLRM and its kin in JAX: tables, interaction, training, evaluation.

    import dlrm_jax
    dlrm_jax.prepare('criteo', input=['train.txt'], output='data/kaggle')
    dlrm_jax.train('configs/criteo_kaggle.py', 'runs/kaggle')
    model = dlrm_jax.load('runs/kaggle')
    model.predict({'I1': [3], ..., 'C26': ['1f2c6d3a']})

Nothing is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from dlrm_jax.evaluate import evaluate as evaluate
  from dlrm_jax.prepare import prepare as prepare
  from dlrm_jax.scoring.load import load as load
  from dlrm_jax.train import train as train

_COMMANDS = ('prepare', 'train', 'evaluate')  # modules that can be called


def __getattr__(name: str) -> Any:
  if name == 'load':
    return importlib.import_module('dlrm_jax.scoring.load').load
  if name in _COMMANDS:
    return importlib.import_module(f'dlrm_jax.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
