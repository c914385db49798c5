"""The network as an ONNX graph, for any batch.

The function differs from that of the StableHLO program in its form alone: it
has few operators and no loops, since onnxruntime runs one operator after the
other. The rows of bags are gathered as a whole and then summed; independent
nodes are scored one after the other; tables are f32[R, D], not packed.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax import native
from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.bags import Bags, Group
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.errors import InputError
from dlrm_jax.graph.builder import Builder, NoOperator, Place
from dlrm_jax.graph.trace import model_of
from dlrm_jax.scoring.function import of_mean_probability
from dlrm_jax.scoring.parameters import layers_of, tables_of

if TYPE_CHECKING:
  from onnx import ModelProto

OUTPUT = 'probability'
"""Name of the output, f32[batch, T]."""

Read = Callable[[str, jax.Array], jax.Array]
"""Name of a stack, rows i32[B, K] -> their values f32[B, K, D]; PAD is zero."""

Arrays = Mapping[str, np.ndarray]


def graph_of(
  network: Network,
  parameters: Arrays,
  tables: Arrays,
  place: Callable[[np.ndarray], Place | None],
  *,
  weighted: bool,
) -> 'ModelProto':
  """The graph of a flat network.

  Args:
    network: the network.
    parameters: its layers, by name.
    tables: its tables, by name; they are not read.
    place: where an array is, if it is in a file.
    weighted: whether the graph takes the weights of ids.

  Raises:
    InputError: a part of the network has no operators.
  """
  floats, count = jnp.float32, network.ids
  inputs: dict[str, tuple[tuple[int, ...], Any]] = {}
  if network.dense_features:
    inputs['dense'] = ((network.dense_features,), floats)
  inputs['ids'] = ((count,), jnp.int32)
  if weighted:
    inputs['id_weights'] = ((count,), floats)
  constants = parameters, tables
  try:
    with native.left_out():
      return model_of(
        _function(network), constants, inputs, OUTPUT, Builder(place=place)
      )
  except NoOperator as error:
    raise InputError(
      f'--format=onnx: ONNX has no operators here for {error}, which this '
      'network has; export it with --format=stablehlo'
    ) from error


def _function(network: Network) -> Callable[..., jax.Array]:
  """((parameters, tables), batch), by name -> probabilities f32[B, T]."""
  stacks = network.collection.layout.stacks

  def score(
    constants: tuple[dict[str, Any], dict[str, Any]], batch: dict[str, Any]
  ) -> jax.Array:
    parameters, tables = constants
    trees = tables_of(tables)

    def read(name: str, rows: jax.Array) -> jax.Array:
      stack = stacks[name]
      tree = stack.storage.unpack(trees[name], stack.dim)
      return stack.storage.read(tree, rows, stack.dim)

    inputs = Inputs(
      batch.get('dense', jnp.zeros((batch['ids'].shape[0], 0))),
      batch['ids'],
      batch.get('id_weights'),
    )
    return probabilities(network, layers_of(parameters), read, inputs)

  return score


def probabilities(
  network: Network, layers: Layers, read: Read, inputs: Inputs
) -> jax.Array:
  """Probabilities f32[B, T], in the form that is converted.

  Args:
    network: a flat network.
    layers: its layers.
    read: reads its tables.
    inputs: a batch.
  """
  collection = network.collection

  def logits(node: jax.Array | None) -> jax.Array:
    rows = collection.rows(inputs.ids, inputs.id_weights, node)
    vectors = {
      name: _pooled(read(name, bags.rows), bags, collection.groups[name])
      for name, bags in rows.items()
    }
    return network.apply(layers, inputs, vectors)

  if not network.nodes:
    return jax.nn.sigmoid(logits(None))
  of_nodes = [logits(jnp.int32(node)) for node in range(network.nodes)]
  return jax.nn.sigmoid(of_mean_probability(jnp.stack(of_nodes, -1)))


def _pooled(
  vectors: jax.Array, bags: Bags, groups: tuple[Group, ...]
) -> jax.Array:
  """Sums of bags f32[B, G, D] from vectors of their rows f32[B, K, D]."""
  if bags.weights is not None:
    vectors = vectors * bags.weights[..., None]
  pooled, start = [], 0
  for count, length in groups:
    part = vectors[:, start : start + count * length]
    if length > 1:
      shape = part.shape[0], count, length, part.shape[-1]
      part = jnp.sum(part.reshape(shape), 2)
    pooled.append(part)
    start += count * length
  return pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled, 1)
