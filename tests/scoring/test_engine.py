"""What multiplies the layers of a model that scores."""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

import dlrm_jax
from dlrm_jax import machine, sharding
from dlrm_jax.build.chosen import choose
from dlrm_jax.configs import default
from dlrm_jax.predict.__main__ import main as predict
from dlrm_jax.scoring import engine
from dlrm_jax.scoring.function import compiled_score
from dlrm_jax.training.state import new_state
from tests import family, scored
from tests.quantization.test_layers import int8_workdir

KINDS = {'row': {}, 'calibrated': {'activations': 'calibrated'}}


@pytest.fixture(scope='module', params=KINDS)
def int8(request, plain, tmp_path_factory):
  """A run whose layers are int8."""
  folder = tmp_path_factory.mktemp(request.param) / 'run'
  fields = {'compute_dtype': 'int8', **KINDS[request.param]}
  int8_workdir(plain, folder, fields)
  run = dataclasses.replace(plain.run, workdir=folder)
  return plain._replace(run=run)


def by_xla(folder, rows):
  """The probabilities of XLA, f32[B]."""
  chosen = choose(folder, 'best', default.get_config().to_dict())
  with sharding.use(sharding.make_mesh(jax.devices()[:1])):
    state = chosen.state()
    score = compiled_score(chosen.run.task.network)
    return np.asarray(score(state.layers, state.tables, rows))[:, 0]


def assert_nearly(found, wanted):
  """Some codes differ, where an input is between two."""
  errors = np.abs(found - wanted)
  assert np.median(errors) < 1e-5
  assert errors.mean() < 2e-4 < 0.01 < wanted.std()


@pytest.mark.parametrize('kind', ['workdir', 'export'])
def test_onnxruntime_scores_as_xla(int8, kind, tmp_path, request):
  pytest.importorskip('onnxruntime')
  folder = int8.folder
  if kind == 'export':
    folder = scored.exported(int8, tmp_path / 'export')
  rows = scored.blocks_of(int8.data, 'train')
  model = dlrm_jax.load(folder)
  assert model.engine.startswith('int8, by onnxruntime ')
  wanted = by_xla(int8.folder, rows)
  assert_nearly(model.score(*rows[:2]), wanted)
  for size in (1, 3):
    part = jax.tree.map(lambda x: x[:size], rows)  # noqa: B023
    np.testing.assert_allclose(
      model.score(*part[:2]), model.score(*rows[:2])[:size], atol=1e-6
    )


def test_floats_are_multiplied_by_xla(plain, export):
  for folder in (plain.folder, export):
    assert dlrm_jax.load(folder).engine == ''


def test_without_the_packages_xla_multiplies_and_says_so(
  int8, monkeypatch, tmp_path, capsys
):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'onnxruntime' else find(name),
  )
  rows = scored.rows_of(0)
  (tmp_path / 'rows.csv').write_text(scored.csv_of(rows))
  flags = [
    f'--workdir={int8.folder}',
    f'--data={tmp_path}/rows.csv',
    f'--output={tmp_path}/scores.csv',
  ]
  assert predict(flags) == 0
  (line,) = [x for x in capsys.readouterr().out.splitlines() if 'layers' in x]
  assert line.startswith('layers    int8, by XLA; onnxruntime')
  assert line.endswith("pip install 'dlrm_jax[onnx]'")
  blocks = scored.blocks_of(int8.data, 'train')
  model = dlrm_jax.load(int8.folder)
  wanted = by_xla(int8.folder, blocks)
  np.testing.assert_allclose(model.score(*blocks[:2]), wanted, atol=1e-6)


def test_the_command_says_what_multiplies(int8, plain, tmp_path, capsys):
  pytest.importorskip('onnxruntime')
  (tmp_path / 'rows.csv').write_text(scored.csv_of(scored.rows_of(0)))
  files = f'--data={tmp_path}/rows.csv', f'--output={tmp_path}/scores.csv'
  assert predict([f'--workdir={int8.folder}', *files]) == 0
  assert '\nlayers    int8, by onnxruntime ' in capsys.readouterr().out
  assert predict([f'--workdir={plain.folder}', *files]) == 0
  assert 'layers' not in capsys.readouterr().out


@pytest.mark.parametrize('flags', [{'avx2', 'avx512_vnni'}, {'avx2'}, None])
def test_codes_suit_the_processor(flags, monkeypatch):
  onnx = pytest.importorskip('onnx')
  monkeypatch.setattr(machine, 'cpu_flags', lambda: flags)
  network = family.task_of('dlrm', {'model.compute_dtype': 'int8'}).network
  layers = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
  graph = onnx.load_from_string(engine.layers_graph(network, layers)).graph
  kinds = {x.data_type for x in graph.initializer if len(x.dims) == 2}
  signed = flags is not None and 'avx512_vnni' in flags
  assert (onnx.TensorProto.INT8 in kinds) is signed


@pytest.mark.parametrize(
  ('devices', 'fields'), [(2, {}), (1, {'tables.placement': 'independent'})]
)
def test_several_devices_and_nodes_are_for_xla(devices, fields):
  task = family.task_of('dlrm', {'model.compute_dtype': 'int8', **fields})
  with family.on(devices):
    state = new_state(task, jax.random.key(0))
    made = engine.engine_of(task.network, state.layers, state.tables)
  assert made.words == 'int8, by XLA'


def test_an_operation_without_a_rule_is_left_to_xla():
  pytest.importorskip('onnxruntime')
  task = family.task_of('dlrm', {'model.compute_dtype': 'int8'})
  with family.on(1):
    state = new_state(task, jax.random.key(0))
    made = engine.engine_of(
      task.network, state.layers, state.tables, jax.lax.erf_inv
    )
  assert made.words.startswith(
    'int8, by XLA; onnxruntime has no form of the op'
  )
