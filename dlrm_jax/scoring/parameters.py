"""Arrays of a model by flat names, as an export keeps them, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlrm_jax.embedding.collection import Tables
from dlrm_jax.embedding.network import Layers
from dlrm_jax.rows import Pytree

_MARK = '/'  # no name has one
_LAYERS, _STATISTICS = Layers._fields


def flat_layers(layers: Layers) -> dict[str, Any]:
  """Layers -> their arrays, by names such as 'params/model/bottom/...'."""
  return _flat(layers._asdict())


def layers_of(arrays: Mapping[str, Any]) -> Layers:
  """The inverse of `flat_layers`."""
  nested = _nested(arrays)
  return Layers(nested.get(_LAYERS, {}), nested.get(_STATISTICS, {}))


def flat_tables(tables: Tables) -> dict[str, Any]:
  """Tables -> their arrays by name of the stack, or 'stack/array'."""
  return _flat(tables)


def tables_of(arrays: Mapping[str, Any]) -> Tables:
  """The inverse of `flat_tables`."""
  return _nested(arrays)


def _flat(tree: Pytree) -> dict[str, Any]:
  return flatten_dict(dict(tree), sep=_MARK)


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
  return unflatten_dict(dict(arrays), sep=_MARK)


def on_host(tree: Pytree) -> Pytree:
  """Arrays as contiguous NumPy arrays."""
  return jax.tree.map(lambda x: np.ascontiguousarray(np.asarray(x)), tree)
