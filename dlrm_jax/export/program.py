"""The network as a program: StableHLO, for any batch, tables as arguments."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import export

from dlrm_jax import native
from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.network import Network
from dlrm_jax.scoring.function import probabilities
from dlrm_jax.scoring.parameters import layers_of, tables_of

PLATFORMS = ('cpu', 'cuda', 'tpu')
"""What a program is compiled for where it is loaded."""

Arrays = Mapping[str, jax.Array]


def scoring_function(
  network: Network, *, weighted: bool
) -> Callable[..., jax.Array]:
  """The function of an export, of arrays by name.

  Args:
    network: a flat network.
    weighted: whether it takes the weights of ids.

  Returns:
    (parameters, tables, dense f32[B, N], ids i32[B, H]) -> probabilities
    f32[B, T]; with weights of ids, f32[B, H], as a fifth argument.
  """

  def score(
    parameters: Arrays, tables: Arrays, dense: jax.Array, ids: jax.Array
  ) -> jax.Array:
    inputs = Inputs(dense, ids)
    layers = layers_of(parameters)
    return probabilities(network, layers, tables_of(tables), inputs)

  def score_weighted(
    parameters: Arrays,
    tables: Arrays,
    dense: jax.Array,
    ids: jax.Array,
    id_weights: jax.Array,
  ) -> jax.Array:
    inputs = Inputs(dense, ids, id_weights)
    layers = layers_of(parameters)
    return probabilities(network, layers, tables_of(tables), inputs)

  return score_weighted if weighted else score


def serialized(
  network: Network, parameters: Arrays, tables: Arrays, *, weighted: bool
) -> bytes:
  """The program of a network, as `jax.export` serializes it.

  Args:
    network: a flat network.
    parameters: its layers, or their shapes, by name.
    tables: its tables, or their shapes, by name.
    weighted: whether it takes the weights of ids.
  """
  (batch,) = export.symbolic_shape('batch')
  inputs = [
    jax.ShapeDtypeStruct((batch, network.dense_features), jnp.float32),
    jax.ShapeDtypeStruct((batch, network.ids), jnp.int32),
  ]
  if weighted:
    inputs.append(jax.ShapeDtypeStruct((batch, network.ids), jnp.float32))
  compiled = jax.jit(scoring_function(network, weighted=weighted))
  with native.left_out():  # other machines have no kernels
    program = export.export(compiled, platforms=PLATFORMS)
    return bytes(program(parameters, tables, *inputs).serialize())
