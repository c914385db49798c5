"""Whether onnxruntime gives the probabilities of the network itself."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.embedding.features import column_hotness
from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.export.onnx_graph import probabilities
from dlrm_jax.scoring.parameters import layers_of, tables_of

_ROWS = 256

_TOLERANCE = 1e-4
"""Most that a probability may be off. Of a right graph all are within 1e-6, but
where logits are large sums of numbers that cancel."""

_OF_INT8 = 1e-3
"""Most that probabilities of int8 layers may be off in the mean: an input that
is off by its last bit may have another code. Of a model with limits by layer
half of the rows had such codes, and the mean of all was 0.0003."""

Arrays = Mapping[str, np.ndarray]


def check_probabilities(
  path: Path, network: Network, parameters: Arrays, tables: Arrays
) -> float:
  """Scores random rows with onnxruntime and with JAX.

  Rows of tables are read here by NumPy from the mapped files, so that a large
  table is not copied.

  Args:
    path: `network.onnx`.
    network: the flat network.
    parameters: its layers, by name.
    tables: its tables, mapped, by name.

  Returns:
    The largest difference of the probabilities.

  Raises:
    InputError: onnxruntime cannot run the graph, or gives other
      probabilities.
  """
  trees, stacks = tables_of(tables), network.collection.layout.stacks

  def read(name: str, rows: jax.Array) -> jax.Array:
    stack, numbers = stacks[name], np.asarray(rows)
    kept = jax.tree.map(
      lambda x: x[numbers.clip(0)],
      stack.storage.unpack(trees[name], stack.dim),
    )
    values = jnp.asarray(stack.storage.decode(kept, stack.dim))
    return jnp.where((rows >= 0)[..., None], values, 0.0)

  inputs, found = _scored(path, network)
  batch = jax.tree.map(jnp.asarray, inputs)
  expected = probabilities(network, layers_of(parameters), read, batch)
  errors = np.abs(found - np.asarray(expected))
  what, error, most = 'up to', float(errors.max()), _TOLERANCE
  if any(x.dtype == np.int8 for x in parameters.values()):
    what, error, most = 'a mean of', float(errors.mean()), _OF_INT8
  if not error <= most:
    raise InputError(
      f'--format=onnx: probabilities of onnxruntime are off by {what} '
      f'{error:g}; expected at most {most:g}: export with --format=stablehlo'
    )
  return float(errors.max())


def _scored(path: Path, network: Network) -> tuple[Inputs, np.ndarray]:
  """Random rows, and their probabilities f32[B, T] by onnxruntime."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4  # what is wrong is raised, too
  try:
    session = onnxruntime.InferenceSession(
      path, options, providers=['CPUExecutionProvider']
    )
    wanted = {x.name for x in session.get_inputs()}
    inputs = _random_inputs(network, weighted='id_weights' in wanted)
    feed = {k: x for k, x in inputs._asdict().items() if k in wanted}
    return inputs, np.asarray(session.run(None, feed)[0])
  except Exception as error:  # of onnxruntime, which has many types of it
    raise InputError(
      f'--format=onnx: onnxruntime cannot run this network ({error}); export '
      'it with --format=stablehlo'
    ) from error


def _random_inputs(network: Network, *, weighted: bool) -> Inputs:
  """Random rows: ids that are there, a few that are not, and empty bags."""
  random = np.random.default_rng(0)
  features = network.collection.features
  ids = {feature.source: feature.encoding.ids for feature in features}
  columns = [
    random.integers(-2, ids[name] + 2, (_ROWS, length))
    for name, length in column_hotness(features).items()
  ]
  found = np.concatenate(columns, 1).astype(np.int32)
  found[0], found[1] = np.iinfo(np.int32).min, np.iinfo(np.int32).max
  return Inputs(
    random.normal(size=(_ROWS, network.dense_features)).astype(np.float32),
    found,
    random.random(found.shape, np.float32) if weighted else None,
  )
