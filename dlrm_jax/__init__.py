"""DLRM and its kin in JAX: tables, interaction, training, evaluation.

    import dlrm_jax
    dlrm_jax.prepare('criteo', input=['train.txt'], output='data/kaggle')
    dlrm_jax.train('configs/criteo_kaggle.py', 'runs/kaggle')
    model = dlrm_jax.load('runs/kaggle')
    model.predict({'I1': [3], ..., 'C26': ['1f2c6d3a']})

Nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from dlrm_jax.evaluate import evaluate
  from dlrm_jax.plan import plan
  from dlrm_jax.prepare import prepare
  from dlrm_jax.scoring.load import load
  from dlrm_jax.train import train

__all__ = ['evaluate', 'load', 'plan', 'prepare', 'train']


def __getattr__(name: str) -> object:
  from importlib import import_module

  if name == 'load':
    return import_module('dlrm_jax.scoring.load').load
  if name in __all__:  # modules of commands, which can be called
    return import_module(f'dlrm_jax.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__} - {'TYPE_CHECKING'})
