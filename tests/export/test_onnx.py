"""What onnxruntime gives, beside the network itself."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlrm_jax import graph
from dlrm_jax.batch import Inputs
from dlrm_jax.build.task import build_task
from dlrm_jax.data.schema import Column, Scale, Schema
from dlrm_jax.errors import InputError
from dlrm_jax.export import onnx_check, onnx_network
from dlrm_jax.export.__main__ import main
from dlrm_jax.scoring.function import flat, probabilities
from dlrm_jax.scoring.parameters import flat_layers, flat_tables, on_host
from tests import commands, family

needs_onnx = pytest.mark.skipif(
  bool(graph.missing()),
  reason="needs pip install 'dlrm_jax[onnx]'",
)

MODELS = {
  'dlrm': {},
  'dlrm itself': {'model.dlrm.interaction': 'dot_itself'},
  'dlrm cat': {'model.dlrm.interaction': 'cat'},
  'dlrm batch': {'model.norm': 'batch'},
  'dlrm layer': {'model.norm': 'layer'},
  'dlrm branches': {'model.branches': 2},
  'dlrm bfloat16': {'model.compute_dtype': 'bfloat16'},
  'dlrm standard': {'model.dense_scaling': 'standard'},
  'dlrm mean': {'tables.pooling': 'mean'},
  'dlrm independent': {'tables.placement': 'independent'},
  'dlrm weighted': {},
  'dlrm weighted mean': {'tables.pooling': 'mean'},
  'dcn': {},
  'dcn full': {'model.dcn.rank': 0},
  'dcn parallel': {'model.dcn.structure': 'parallel'},
  'deepfm': {},
  'fm': {},
  'wide_deep': {},
  'lr': {},
  'mf': {},
  'gmf': {},
  'neumf': {},
  'mlp': {},
  'shared_bottom': {},
  'mmoe': {},
  'mmoe batch': {'model.norm': 'batch'},
  'esmm': {},
}
ENCODINGS = {
  'hashed': {},
  'hashed twice': {'tables.parts': 2},
  'quotient_remainder': {},
  'quotient_remainder add': {'tables.combine': 'add'},
  'quotient_remainder concat': {'tables.combine': 'concat'},
  'quotient_remainder path': {'tables.combine': 'path', 'tables.hidden': 3},
  'quotient_remainder pool': {'tables.multi_hot': 'pool_then_combine'},
  'quotient_remainder mean': {'tables.pooling': 'mean'},
  'quotient_remainder weighted': {},
  'chinese_remainder': {},
  'partitions': {'tables.partitions': 'tests.partitions_of_a_user:pair'},
  'tensor_train': {'tables.rank': 2},
  'robe': {},
  'mixed_dims': {},
}


def task_of(name, fields):
  """A task of any model, with bags of up to 20 ids where it takes any."""
  schema = family.schema_of(name)
  if name not in family.PAIRS:
    columns = *schema.sparse, Column('C6', 25, 20)
    schema = Schema(schema.dense, columns, schema.labels)
  n = len(schema.dense)
  config = family.config_of(name, fields)
  return build_task(config, schema, Scale((0.1,) * n, (1.3,) * n)), schema


def write(folder, task, weighted=False):
  """Writes the network with random arrays; returns it, layers and tables."""
  network = flat(task.network)
  keys = iter(jax.random.split(jax.random.key(1), 99))
  layers = jax.tree.map(
    lambda x: x + 0.15 * jax.random.normal(next(keys), x.shape),
    network.init(next(keys)),
  )
  variances = jax.tree.map(lambda x: jnp.abs(x) + 0.5, layers.statistics)
  layers = layers._replace(statistics=variances)
  tables = network.collection.init(next(keys))
  tables = jax.tree.map(lambda x: x * 8, tables)
  (folder / 'tables').mkdir()
  save_file(on_host(flat_layers(layers)), folder / 'parameters.safetensors')
  files = {}
  for name, x in flat_tables(tables).items():
    files[name] = {'file': f'tables/{name}.npy'}
    np.save(folder / files[name]['file'], x)
  onnx_network.write_onnx(folder, network, files, weighted=weighted)
  return network, layers, tables


def rows_of(schema, count):
  """Random rows: ids out of range, PAD of several kinds, and empty bags."""
  random = np.random.default_rng(count)
  ids = np.concatenate(
    [random.integers(-1, c.rows, (count, c.hotness)) for c in schema.sparse], 1
  )
  behind = np.repeat(
    [c.rows for c in schema.sparse], [c.hotness for c in schema.sparse]
  )
  for odd in (behind, -7, 2**31 - 1, -(2**31)):
    ids = np.where(random.random(ids.shape) < 0.1, odd, ids)
  ids[:1], ids[1:2] = -1, behind
  dense = random.normal(size=(count, len(schema.dense)))
  return Inputs(
    dense.astype(np.float32),
    ids.astype(np.int32),
    random.random(ids.shape, np.float32),
  )


def session_of(folder):
  import onnxruntime

  path = folder / 'network.onnx'
  return onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])


def scores(session, inputs):
  wanted = {x.name for x in session.get_inputs()}
  (found,) = session.run(
    None, {k: x for k, x in inputs._asdict().items() if k in wanted}
  )
  return found


def assert_alike(folder, name, fields, weighted):
  task, schema = task_of(name, fields)
  network, layers, tables = write(folder, task, weighted)
  session = session_of(folder)
  names = [x.name for x in session.get_inputs()]
  wanted_names = ['dense'] * bool(schema.dense) + ['ids']
  assert names == wanted_names + ['id_weights'] * weighted
  for count in (64, 1, 0):
    inputs = rows_of(schema, count)
    if not weighted:
      inputs = inputs._replace(id_weights=None)
    found = scores(session, inputs)
    assert found.shape == (count, len(schema.labels))
    assert found.dtype == np.float32
    if not count:
      continue
    batch = jax.tree.map(jnp.asarray, inputs)
    wanted = probabilities(network, layers, tables, batch)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert count == 1 or np.std(wanted, 0).min() > 0.01


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize('label', MODELS)
def test_every_model_scores_the_same(tmp_path, label):
  weighted = 'weighted' in label
  assert_alike(tmp_path, label.split()[0], MODELS[label], weighted)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize('label', ENCODINGS)
def test_every_encoding_scores_the_same(tmp_path, label):
  fields = {
    'tables.encoding': label.split()[0],
    'tables.threshold': 5,
    **ENCODINGS[label],
  }
  assert_alike(tmp_path, 'dlrm', fields, 'weighted' in label)


@needs_onnx
@pytest.mark.slow
def test_the_arrays_of_the_graph_are_the_files_of_the_export(tmp_path):
  import onnx

  task, schema = task_of('dlrm', {})
  write(tmp_path, task)
  onnx.checker.check_model(tmp_path / 'network.onnx', full_check=True)
  model = onnx.load(tmp_path / 'network.onnx', load_external_data=False)
  places = [
    {e.key: e.value for e in x.external_data}
    for x in model.graph.initializer
    if x.data_location == onnx.TensorProto.EXTERNAL
  ]
  parameters = tmp_path / 'parameters.safetensors'
  numbers = sorted(x.tobytes() for x in load_file(parameters).values())
  content = parameters.read_bytes()
  ends = [
    (int(x['offset']), int(x['offset']) + int(x['length']))
    for x in places
    if x['location'] == parameters.name
  ]
  assert sorted(content[a:b] for a, b in ends) == numbers
  tables = {x['location'] for x in places} - {parameters.name}
  assert tables == {
    x.relative_to(tmp_path).as_posix() for x in tmp_path.glob('tables/*')
  }
  inside = sum(len(x.raw_data) for x in model.graph.initializer)
  assert inside < 10_000
  # A changed file is a changed model: nothing is kept a second time.
  inputs = rows_of(schema, 5)
  before = scores(session_of(tmp_path), inputs)
  for name in tables:
    np.save(tmp_path / name, np.load(tmp_path / name) + 1)
  assert np.abs(scores(session_of(tmp_path), inputs) - before).max() > 1e-3


@needs_onnx
@pytest.mark.slow
def test_what_cannot_be_converted_is_refused(tmp_path):
  fields = {
    'tables.encoding': 'partitions',
    'tables.threshold': 5,
    'tables.partitions': 'tests.partitions_of_a_user:called_back',
  }
  with pytest.raises(InputError, match='for the operation pure_callback'):
    write(tmp_path, task_of('dlrm', fields)[0])


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """An export of a short run, and what `load` makes of it."""
  import dlrm_jax

  folder = tmp_path_factory.mktemp('onnx')
  run, output = f'--workdir={folder / "run"}', f'--output={folder / "models"}'
  commands.run(['train.py', '--config=tests/small.py', run])
  commands.run(['-m', 'dlrm_jax.export', run, output, '--format=onnx'])
  return folder / 'models', dlrm_jax.load(folder / 'models')


@needs_onnx
@pytest.mark.slow
def test_the_command_writes_both_networks(exported):
  folder, model = exported
  inputs = rows_of(model.card.schema, 500)
  found = scores(session_of(folder), inputs)
  wanted = model.score(inputs.dense, inputs.ids)
  np.testing.assert_allclose(found[:, 0], wanted, rtol=0, atol=1e-5)


@needs_onnx
@pytest.mark.slow
def test_the_page_scores_with_onnxruntime_alone(exported, monkeypatch):
  folder, model = exported
  page = pathlib.Path(__file__).parents[2] / 'docs/onnx.md'
  code = page.read_text().split('```python\n')[1].split('```')[0]
  assert 'jax' not in code
  monkeypatch.chdir(folder)
  known = {}
  exec(code.replace('models/kaggle', '.'), known)
  inputs = rows_of(model.card.schema, 50)
  assert known['probability'].shape == (2, 1)
  found = scores(known['session'], inputs)
  wanted = model.score(inputs.dense, inputs.ids)
  assert wanted.std() > 1e-3
  np.testing.assert_allclose(found[:, 0], wanted, rtol=0, atol=1e-5)


def test_without_the_extra_one_line_says_so(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  status = main(
    ['--workdir=absent', f'--output={tmp_path / "out"}', '--format=onnx']
  )
  assert status == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert 'needs onnx, onnxruntime' in line
  assert "pip install 'dlrm_jax[onnx]'" in line


def graph_of(folder, operation):
  """Writes a graph of one operation, ids i32[batch, 2] -> f32[batch, 1]."""
  from onnx import TensorProto, helper, save

  ids = helper.make_tensor_value_info('ids', TensorProto.INT32, ['batch', 2])
  out = helper.make_tensor_value_info('p', TensorProto.FLOAT, ['batch', 1])
  half = helper.make_tensor('half', TensorProto.FLOAT, [1], [0.5])
  shape = helper.make_node('Shape', ['ids'], ['shape'])
  node = helper.make_node(operation, ['half', 'shape'], ['p'])
  made = helper.make_graph([shape, node], 'wrong', [ids], [out], [half])
  path = folder / 'network.onnx'
  save(helper.make_model(made, ir_version=10), path)
  return path


@needs_onnx
@pytest.mark.parametrize(
  ('operation', 'message'),
  [('Expand', 'probabilities of onnxruntime are off by'),
   ('Absent', 'onnxruntime cannot run this network')],
)  # fmt: skip
def test_another_probability_is_refused(tmp_path, operation, message):
  task = family.task_of('mf')
  network = flat(task.network)
  layers = network.init(jax.random.key(0))
  tables = network.collection.init(jax.random.key(1))
  with pytest.raises(InputError, match=message):
    onnx_check.check_probabilities(
      graph_of(tmp_path, operation),
      network,
      flat_layers(layers),
      on_host(flat_tables(tables)),
    )
