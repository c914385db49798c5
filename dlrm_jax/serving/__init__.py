"""Serves models by the Open Inference Protocol, on HTTP and gRPC.

from dlrm_jax.serving import Client

Client('127.0.0.1:8001').predict({'user': [17], 'item': ['b12'], ...})
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from dlrm_jax.serving.client import Client

__all__ = ['Client']


def __getattr__(name: str) -> object:
  from importlib import import_module

  if name == 'Client':
    return import_module('dlrm_jax.serving.client').Client
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
