"""What multiplies the layers of a network that scores: XLA, or onnxruntime.

On CPUs, products of codes of 8 bits are no faster by XLA than those of float32;
by onnxruntime they are, where limits are calibrated. So where layers are int8,
the device is one CPU, and the extra `onnx` is installed, XLA looks up and
encodes, and onnxruntime does the rest. All else is XLA's, and so is a model
with an operation that has no rule in `dlrm_jax.graph`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax import graph, machine, sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.collection import Tables
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.graph.builder import Builder, NoOperator
from dlrm_jax.graph.trace import model_of
from dlrm_jax.scoring.function import Outputs, compiled_score
from dlrm_jax.scoring.once import once

_VNNI = frozenset({'avx_vnni', 'avx512_vnni'})
_DENSE = 'dense'
_FEW = 128
"""Most examples that one thread scores before others have woken up."""


class Engine(NamedTuple):
  """A compiled network.

  Attributes:
    score: inputs -> outputs, such as probabilities f32[B, T].
    words: what multiplies int8 layers, for people; '' where there are none.
  """

  score: Callable[[Inputs], jax.Array | np.ndarray]
  words: str


def engine_of(
  network: Network,
  layers: Layers,
  tables: Tables,
  outputs: Outputs = jax.nn.sigmoid,
) -> Engine:
  """Compiles a network for the mesh in use.

  Args:
    network: the network.
    layers: its layers.
    tables: its tables.
    outputs: what is told of the logits.
  """
  by_xla = compiled_score(network, outputs)

  def score(inputs: Inputs) -> jax.Array:
    return by_xla(layers, tables, inputs)

  if not network.of_codes:
    return Engine(score, '')
  one_cpu = sharding.on_cpu() and sharding.device_count() == 1
  if not one_cpu or network.nodes:
    return Engine(score, 'int8, by XLA')
  if graph.missing():
    install = "onnxruntime may be faster: pip install 'dlrm_jax[onnx]'"
    return Engine(score, f'int8, by XLA; {install}')
  try:
    return _by_onnxruntime(network, layers, tables, outputs)
  except NoOperator as error:
    return Engine(score, f'int8, by XLA; onnxruntime has no form of {error}')


def _by_onnxruntime(
  network: Network, layers: Layers, tables: Tables, outputs: Outputs
) -> Engine:
  """Lookups and encodings by XLA, all behind them by onnxruntime."""
  import onnxruntime

  made = layers_graph(network, jax.tree.map(np.asarray, layers), outputs)

  def session(threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait awake take their cores from XLA's.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return onnxruntime.InferenceSession(
      made, options, providers=['CPUExecutionProvider']
    )

  def open_sessions() -> tuple[
    onnxruntime.InferenceSession, onnxruntime.InferenceSession, list[str]
  ]:
    few, many = session(1), session(machine.cores())
    return few, many, [x.name for x in few.get_inputs()]

  # Not before they score: a server makes an engine of its own.
  opened = once(open_sessions)
  needed = network.layers_of_encodings(layers)

  @jax.jit
  def encode(
    layers: Layers, tables: Tables, ids: jax.Array, weights: jax.Array | None
  ) -> dict[str, jax.Array]:
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids, weights)
    return network.encoded(layers, tables, inputs)

  def score(inputs: Inputs) -> np.ndarray:
    few, many, wanted = opened()
    vectors = encode(needed, tables, inputs.ids, inputs.id_weights)
    given = {**vectors, _DENSE: inputs.dense}
    feed = {name: np.asarray(given[name]) for name in wanted}
    chosen = few if len(inputs.ids) <= _FEW else many
    return np.asarray(chosen.run(None, feed)[0])

  return Engine(score, f'int8, by onnxruntime {onnxruntime.__version__}')


def layers_graph(
  network: Network, layers: Layers, outputs: Outputs = jax.nn.sigmoid
) -> bytes:
  """What a model does behind the lookup, as an ONNX graph.

  Its inputs are the dense features, where there are any, and the vectors of
  each role.

  Args:
    network: a network without nodes.
    layers: its layers, of NumPy.
    outputs: what is told of the logits.
  """

  def told(layers: Layers, batch: dict[str, jax.Array]) -> jax.Array:
    size = next(iter(batch.values())).shape[0]
    dense = batch.get(_DENSE, jnp.zeros((size, 0)))
    ids = jnp.zeros((size, network.ids), jnp.int32)  # they are looked up
    logits = network.of_encoded(layers, Inputs(dense, ids), batch)
    return outputs(logits)

  dense, vectors = network.shapes
  shapes: dict[str, tuple[int, ...]] = dict(vectors)
  if dense:
    shapes[_DENSE] = (dense,)
  inputs = {name: (shape, jnp.float32) for name, shape in shapes.items()}
  builder = Builder(signed=has_vnni())
  model = model_of(told, layers, inputs, 'outputs', builder)
  return model.SerializeToString()


def has_vnni() -> bool:
  """Whether this processor sums products with signed codes in 32 bits.

  Others, such as those with AVX2 alone, sum two of them in 16 bits in
  onnxruntime, where large ones are cut off.
  """
  return not _VNNI.isdisjoint(machine.cpu_flags() or ())
