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
  from dlrm_jax.scoring.load import load as load

_WHERE = {'load': 'dlrm_jax.scoring.load'}


def __getattr__(name: str) -> Any:
  if name in _WHERE:
    return getattr(importlib.import_module(_WHERE[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
