"""The notebooks, in a new environment and a folder without the repository."""

import pathlib
import re
import shutil
import sys
import tomllib

import jax
import nbformat
import pytest

import dlrm_jax
from benchmarks import notebooks
from configs import notebook
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.task import build_task
from dlrm_jax.errors import InputError
from dlrm_jax.plan import chips, compiled
from dlrm_jax.plan.paper import on_paper
from tests.absent_chips import COMPILES, needs_compiler

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
FIRST, EIGHT = 'dlrm_jax.ipynb', 'eight_chips.ipynb'
MISSING = 'left out: '
PROXIES = 'http_proxy', 'https_proxy', 'HTTPS_PROXY'


@pytest.fixture(scope='module')
def variables(tmp_path_factory):
  folder = tmp_path_factory.mktemp('bare')
  wheel = notebooks.build_wheel(folder)
  found = notebooks.bare_environment(sys.executable, wheel, folder)
  return found | {'DLRM_JAX_NOTEBOOK_SIZE': 'smoke'}


def run(name, folder, variables):
  found = notebooks.run_notebook(ROOT / 'notebooks' / name, folder, variables)
  for cell in found.cells:
    if 'live=True' in cell.source and cell.get('outputs'):
      assert '<svg' in curves(cell)
  text = notebooks.text_of(found)
  assert 'Warning' not in text
  assert 'error:' not in text
  return text


def curves(cell):
  """The output of a cell that is drawn again and again."""
  (drawn,) = [o.data['text/html'] for o in cell.outputs if 'data' in o]
  return drawn


def left_out(text):
  return [line for line in text.splitlines() if MISSING in line]


@pytest.mark.slow
def test_without_data_each_part_that_needs_some_says_so(tmp_path, variables):
  no_network = dict.fromkeys(PROXIES, 'http://127.0.0.1:9')
  text = run(FIRST, tmp_path, variables | no_network)
  first, *rest = left_out(text)
  assert first.startswith('MovieLens is left out: https://files.grouplens.org/')
  assert rest[0] == (
    'Criteo is left out: no train.txt, train.txt.gz, day_0.gz in ., /content, '
    '/content/drive/MyDrive'
  )
  assert len(rest) == 1 + (not COMPILES)
  assert (tmp_path / 'model.zip').exists()
  assert not (tmp_path / 'runs' / 'movielens').exists()


@pytest.mark.slow
def test_with_data_everything_runs(tmp_path, variables, real_data):
  for file in (
    'movielens/ml-latest-small.zip', 'criteo_kaggle_sample/train.txt'
  ):  # fmt: skip
    shutil.copy(real_data / file, tmp_path)
  text = run(FIRST, tmp_path, variables)
  assert len(left_out(text)) == (not COMPILES)
  for name in ('synthetic', 'compressed', 'movielens', 'criteo'):
    assert (tmp_path / 'runs' / name / 'report.html').exists()


@pytest.mark.slow
def test_eight_devices_train_one_model(tmp_path, variables):
  text = run(EIGHT, tmp_path, variables)
  assert re.search('^devices   8 x cpu; uses 8', text, re.M)
  eight, one = re.findall(r'AUC on 8 devices ([\d.]+), on one ([\d.]+)', text)[
    0
  ]
  assert float(one) == pytest.approx(float(eight), abs=2e-6)


@pytest.mark.parametrize('name', [FIRST, EIGHT])
def test_the_stored_outputs_are_of_a_whole_run(name):
  """So that readers see what they will get; and no cell failed or warned."""
  found = nbformat.read(ROOT / 'notebooks' / name, as_version=4)
  text = notebooks.text_of(found)
  assert 'Warning' not in text
  assert f'{MISSING}' not in text
  assert 'So the size is: tenth' in text or name == EIGHT
  for cell in found.cells:
    if cell.cell_type == 'code':
      assert cell.execution_count
      assert not any(o.output_type == 'error' for o in cell.outputs)
  assert 'python -m benchmarks.notebooks' in found.cells[0].source


def test_badges_name_the_address_of_the_project():
  address = PROJECT['urls']['Repository'].removeprefix('https://github.com/')
  texts = {
    name: (ROOT / 'notebooks' / name).read_text() for name in (FIRST, EIGHT)
  } | {'README': (ROOT / 'README.md').read_text()}
  for name, text in texts.items():
    found = re.findall(
      r'colab.research.google.com/github/([\w-]+/[\w-]+)/', text
    )
    assert set(found) == {address}, name
    for other in re.findall(r'github\.com/([\w-]+/dlrm_jax)', text):
      assert other == address, name
  for file in re.findall(r'/blob/main/(notebooks/\w+\.ipynb)', str(texts)):
    assert (ROOT / file).exists()


def test_what_colab_has_is_enough():
  """Installing there replaces nothing: all bounds are at most what is there."""
  text = (ROOT / 'tests' / 'notebooks' / 'colab.txt').read_text()
  there = dict(re.findall(r'^([\w.-]+)==(\S+)$', text, re.M))
  there = {name.lower().replace('_', '-'): v for name, v in there.items()}
  wanted = (ROOT / 'requirements.txt').read_text()
  found = 0
  for name, bound in re.findall(r'^([\w.-]+)>=([\d.]+)', wanted, re.M):
    has = there.get(name.lower().replace('_', '-'))
    if has is not None:
      assert number(has) >= number(bound), name
      found += 1
  assert found >= 12


def number(version):
  return [int(part) for part in re.findall(r'\d+', version)]


def task_of(training, size, chips, grown):
  """The task of a training; `grown`: with tables of 12 GB."""
  config = notebook.get_config(f'{training}_{size}')
  if config.data.kind == 'synthetic' and grown:
    config.data.synthetic.size = grown
  elif grown:
    config.data.expected.rows = tuple(
      round(rows * grown) for rows in config.data.expected.rows
    )
  return config, build_task(config, *open_schema(config))


EXAMPLES = {
  'synthetic': 12_582_912,
  'compressed': 12_582_912,
  'movielens': 80_669,
  'criteo': 45_840_617,  # the whole log
}


def table_bytes(task):
  return sum(4 * t.rows * t.dim for t in task.collection.tables)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize('topology', ['v5e:1x1', 'v5e:2x4'])
@pytest.mark.parametrize('training', notebook.TRAININGS)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_every_step_compiles_for_tpus(training, topology):
  devices = chips.find_devices(topology)
  config, task = task_of(training, 'full', len(devices), None)
  step = compiled.compile_step(task, config.train.batch_size, devices)
  assert step.memory.total < 15.5e9
  # The four trainings of the notebook in ten minutes, a quarter each.
  least = on_paper(topology, step.flops, step.memory_bytes, step.collectives)
  steps = config.train.epochs * EXAMPLES[training] / config.train.batch_size
  assert steps * least.seconds < 150


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize('training', ['synthetic', 'movielens', 'criteo'])
@jax.numpy_dtype_promotion('standard')
def test_tables_of_12_gb_train_on_a_chip_of_16(training):
  devices = chips.find_devices('v5e:1x1')
  _, task = task_of(training, 'full', 1, None)
  config, task = task_of(training, 'full', 1, 12e9 / table_bytes(task))
  assert table_bytes(task) == pytest.approx(12e9, rel=0.01)
  step = compiled.compile_step(task, config.train.batch_size, devices)
  assert step.memory.total < 15.5e9


def test_an_input_error_is_one_line_in_a_notebook(tmp_path, variables):
  source = "import dlrm_jax\ndlrm_jax.load('nowhere')"
  made = nbformat.v4.new_notebook(
    cells=[
      nbformat.v4.new_code_cell('%pip install -q dlrm_jax'),
      nbformat.v4.new_code_cell(
        source, metadata={'tags': ['raises-exception']}
      ),
    ]
  )
  nbformat.write(made, tmp_path / 'mistake.ipynb')
  place = tmp_path / 'place'
  place.mkdir()
  found = notebooks.run_notebook(tmp_path / 'mistake.ipynb', place, variables)
  (output,) = found.cells[1].outputs
  assert output.ename == 'InputError'
  assert len(output.traceback) == 1
  assert output.traceback[0].startswith('error: nowhere')


def test_live_curves_need_a_notebook(tmp_path):
  with pytest.raises(InputError, match='live=True draws in a notebook'):
    dlrm_jax.train('notebook:synthetic_smoke', tmp_path / 'run', live=True)
  assert not (tmp_path / 'run').exists()


def test_a_size_that_there_is_not_is_refused(monkeypatch):
  monkeypatch.setenv('DLRM_JAX_NOTEBOOK_SIZE', 'tiny')
  with pytest.raises(InputError, match="SIZE is 'tiny'; expected full, tenth"):
    notebook.choose_size()
