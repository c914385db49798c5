"""Networks some of whose kernels are sparse: what `config.model.sparse` says.

A checkpoint has whole kernels, with zeros, so that all that reads it need not
know of them. Where a model is loaded, they are packed, and the network is made
for their patterns.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlrm_jax import native
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.errors import InputError
from dlrm_jax.models.branches import Branches
from dlrm_jax.models.sparse import Form, Pattern, Sparse, packed
from dlrm_jax.optim.pruning import kernels_of
from dlrm_jax.sharding import COPIED, device_count, on_cpu, sharding_of


def usable(form: Form) -> bool:
  """Whether the devices in use have the product of a form.

  Those in C are of one CPU device: XLA would give each of several the whole
  batch.
  """
  if form is Form.SMALLER:
    return True
  return on_cpu() and device_count() == 1 and native.in_use()


class Scored(NamedTuple):
  """A network and its layers, in the form that scores.

  Attributes:
    network: the network.
    layers: its arrays.
    patterns: those of its sparse kernels, by name.
  """

  network: Network
  layers: Layers
  patterns: Mapping[str, Pattern]

  @property
  def bytes(self) -> int:
    """Bytes of the layers, and of the constants of their patterns."""
    constant = sum(
      x.inputs.nbytes + x.outputs.nbytes for x in self.patterns.values()
    )
    return constant + sum(x.nbytes for x in jax.tree.leaves(self.layers))


def specialised(
  network: Network, layers: Layers, forms: Mapping[str, Form]
) -> Scored:
  """A network made for the zeros of its kernels, on the mesh in use.

  Args:
    network: the network of whole kernels.
    layers: its layers.
    forms: form by name of a kernel; those that are not usable stay whole.

  Raises:
    InputError: there is no such kernel.
  """
  there = kernels_of(layers.params)
  for name in forms:
    if name not in there:
      raise InputError(
        f'config.model.sparse: the model has no kernel {name}; it has '
        f'{", ".join(there) or "none"}'
      )
  patterns, weights = {}, {}
  for name, form in forms.items():
    if usable(form):
      kernel = np.asarray(there[name])
      patterns[name], weights[name] = packed(kernel, form)
  if not patterns:
    return Scored(network, layers, {})
  params: dict[str, Any] = flatten_dict(dict(layers.params), sep='/')
  params |= jax.device_put(weights, sharding_of(COPIED))
  model = _with_patterns(network.model, patterns)
  return Scored(
    dataclasses.replace(network, model=model),
    layers._replace(params=unflatten_dict(params, sep='/')),
    patterns,
  )


def _with_patterns(
  model: nn.Module, patterns: Mapping[str, Pattern]
) -> nn.Module:
  if isinstance(model, Branches):
    return model.clone(model=_with_patterns(model.model, patterns))
  return model.clone(operands=Sparse(model.operands, patterns))
