"""Tables of 8, 4 and 2 bits a value, in the bytes of other programs.

`int64_matmul` is imported when it is used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from dlrm_jax.quantization.int64 import int64_matmul

__all__ = ['int64_matmul']


def __getattr__(name: str) -> object:
  from importlib import import_module

  if name in __all__:
    return getattr(import_module('dlrm_jax.quantization.int64'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
