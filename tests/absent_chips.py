"""Whether this environment compiles for TPU chips that it does not have."""

import importlib.util

import jax
import pytest

from dlrm_jax.plan import chips

COMPILES = (
  importlib.util.find_spec('libtpu') is not None
  and jax.__version_info__ >= chips.OLDEST
)
needs_compiler = pytest.mark.skipif(
  not COMPILES,
  reason='libtpu, the compiler of TPUs, is not installed (Linux x86-64 only), '
  'or JAX is older than 0.8',
)
