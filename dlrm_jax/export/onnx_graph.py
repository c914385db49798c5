"""The network as an ONNX graph, for any batch, by jax2onnx.

The function differs from that of the StableHLO program in its form alone: it
has few operators and no loops, since onnxruntime runs one operator after the
other. The rows of bags are gathered as a whole and then summed; independent
nodes are scored one after the other; tables are f32[R, D], not packed.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from dlrm_jax import native
from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.bags import Bags, Group
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.errors import InputError
from dlrm_jax.export.onnx_form import rewritten
from dlrm_jax.export.onnx_int8 import use_integer_products
from dlrm_jax.rows import Pytree
from dlrm_jax.scoring.function import of_mean_probability
from dlrm_jax.scoring.parameters import flat_tables, layers_of, tables_of

if TYPE_CHECKING:
  from onnx import ModelProto

OPSET = 21
"""Version of ONNX's operators, of 2024: less than the default of jax2onnx, so
that more runtimes load the graph."""

OUTPUT = 'probability'
"""Name of the output, f32[batch, T]."""

Read = Callable[[str, jax.Array], jax.Array]
"""Name of a stack, rows i32[B, K] -> their values f32[B, K, D]; PAD is zero."""

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class Arguments(NamedTuple):
  """The inputs of a network before its arrays are made constants, by name.

  Attributes:
    parameters: the layers.
    tables: the tables, each array as rows [R, width].
    inputs: `dense`, `ids` and, where the model has them, `id_weights`.
  """

  parameters: Shapes
  tables: Shapes
  inputs: Shapes

  @property
  def shapes(self) -> Shapes:
    """All of them, in the order of the arguments of the function."""
    return {**self.parameters, **self.tables, **self.inputs}


def arguments_of(
  network: Network, parameters: Mapping[str, Any], *, weighted: bool
) -> Arguments:
  """The inputs of a flat network.

  Args:
    network: a flat network.
    parameters: its layers, or their shapes, by name.
    weighted: whether it takes the weights of ids.
  """
  collection = network.collection

  def unpacked() -> Pytree:
    tables = collection.init(jax.random.key(0))
    return {
      name: stack.storage.unpack(tables[name], stack.dim)
      for name, stack in collection.layout.stacks.items()
    }

  (batch,) = export.symbolic_shape('batch')
  inputs = {
    'dense': jax.ShapeDtypeStruct((batch, network.dense_features), jnp.float32),
    'ids': jax.ShapeDtypeStruct((batch, network.ids), jnp.int32),
  }
  if weighted:
    shape = inputs['ids'].shape
    inputs['id_weights'] = jax.ShapeDtypeStruct(shape, jnp.float32)
  if not network.dense_features:
    del inputs['dense']
  return Arguments(
    {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in parameters.items()},
    flat_tables(jax.eval_shape(unpacked)),
    inputs,
  )


def graph_of(network: Network, arguments: Arguments) -> 'ModelProto':
  """The graph; its arrays are inputs of their names, beside those of a batch.

  Raises:
    InputError: jax2onnx cannot convert a part of the network.
  """
  with _quiet():
    from jax2onnx import to_onnx

  shapes = list(arguments.shapes.values())
  # Traced first: jax2onnx replaces functions of JAX and Flax while it traces.
  with native.left_out():
    traced = jax.make_jaxpr(_function(network, arguments))(*shapes)
  try:
    with _quiet():
      model = to_onnx(
        lambda *arrays: rewritten(traced)(*arrays)[0],
        shapes,
        model_name='dlrm_jax',
        opset=OPSET,
        input_names=list(arguments.shapes),
        output_names=[OUTPUT],
      )
  except Exception as error:  # it has no type of its own for these
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise InputError(
      f'--format=onnx: jax2onnx cannot convert this network ({reason}); export '
      'it with --format=stablehlo'
    ) from error
  use_integer_products(model.graph)
  return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Context without warnings of what onnx_ir and jax2onnx leave out.

  These are shapes, and conversions for libraries that are not installed.
  """
  loggers = [logging.getLogger(name) for name in ('onnx_ir', 'jax2onnx')]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)


def _function(
  network: Network, arguments: Arguments
) -> Callable[..., jax.Array]:
  """Arrays in the order of the arguments -> probabilities f32[B, T]."""
  stacks = network.collection.layout.stacks

  def score(*arrays: jax.Array) -> jax.Array:
    given = iter(arrays)
    parameters, tables, batch = (
      {name: next(given) for name in group} for group in arguments
    )
    trees = tables_of(tables)

    def read(name: str, rows: jax.Array) -> jax.Array:
      return stacks[name].storage.read(trees[name], rows, stacks[name].dim)

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
