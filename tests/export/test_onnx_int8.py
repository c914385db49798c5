"""Products of codes in ONNX graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dlrm_jax.embedding.network import Layers
from dlrm_jax.export import onnx_network
from dlrm_jax.quantization.layers import Range, quantize_layers
from dlrm_jax.scoring.function import flat, probabilities
from dlrm_jax.scoring.parameters import flat_layers, flat_tables, on_host
from tests.export.test_onnx import (
  needs_onnx,
  rows_of,
  scores,
  session_of,
  task_of,
)

CASES = {
  'dlrm': {},
  'dlrm calibrated': {'model.activations': 'calibrated'},
  'dlrm outliers': {'model.outliers': 2},
  'dlrm wide': {'model.top': (300, 200)},
  'dcn': {},
  'mmoe': {},
}


def write(folder, name, fields):
  """Writes a network with random codes; returns all that it scores with."""
  task, schema = task_of(name, {**fields, 'model.compute_dtype': 'int8'})
  floats, _ = task_of(name, {k: fields[k] for k in fields if k == 'model.top'})
  network = flat(task.network)
  layers = flat(floats.network).init(jax.random.key(0))
  like = jax.eval_shape(lambda: network.init(jax.random.key(0))).params
  shapes = flat_layers(Layers(like, {}))
  outliers = np.arange(fields.get('model.outliers', 0), dtype=np.int32)
  ranges = {
    k.removeprefix('params/'): Range(-1.0, 2.0, outliers[: x.shape[0]])
    for k, x in shapes.items()
    if x.dtype == np.int8
  }
  params = quantize_layers(layers.params, like, ranges)
  layers = layers._replace(params=params)
  tables = network.collection.init(jax.random.key(1))
  tables = jax.tree.map(lambda x: x * 8, tables)
  (folder / 'tables').mkdir()
  save_file(on_host(flat_layers(layers)), folder / 'parameters.safetensors')
  files = {}
  for table, x in flat_tables(tables).items():
    files[table] = {'file': f'tables/{table}.npy'}
    np.save(folder / files[table]['file'], x)
  onnx_network.write_onnx(folder, network, files, weighted=False)
  return schema, (network, layers, tables), len(ranges)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize('label', CASES)
def test_codes_are_multiplied_as_integers(tmp_path, label):
  import onnx
  import onnxruntime

  schema, model, kernels = write(tmp_path, label.split()[0], CASES[label])
  options = onnxruntime.SessionOptions()
  options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
  onnxruntime.InferenceSession(tmp_path / 'network.onnx', options)
  made = onnx.load(tmp_path / 'optimised.onnx', load_external_data=False)
  kinds = [x.op_type for x in made.graph.node]
  product = 'QGemm' if 'calibrated' in label else 'MatMulInteger'
  assert kinds.count(product) == kernels
  inputs = rows_of(schema, 300)._replace(id_weights=None)
  found = scores(session_of(tmp_path), inputs)
  wanted = probabilities(*model, jax.tree.map(jnp.asarray, inputs))
  errors = np.abs(found - wanted)
  # Sums are exact; few codes differ, where an input is between two.
  assert errors.mean() < 1e-5
  assert np.mean(errors < 1e-5) > 0.9
  assert np.std(wanted, 0).min() > 0.01
