"""The Python of the README and of docs/, as it stands there."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = (
  *('jax', 'jaxlib', 'numpy', 'ml_dtypes', 'scipy', 'opt_einsum'),
  *('flatbuffers', 'numpy.libs', 'scipy.libs'),
)


def blocks(page):
  """The blocks of Python of a page."""
  return re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), re.S)


def criteo_log(path, rows=300):
  """A log of which every line is another one."""
  lines = []
  for row in range(rows):
    integers = [str((row * k) % 11) for k in range(1, 14)]
    texts = [f'{row * k % 7:08x}' for k in range(1, 27)]
    lines.append(
      '\t'.join(
        [
          str(row % 4 == 0).replace('True', '1').replace('False', '0'),
          *integers,
          *texts,
        ]
      )
    )
  path.write_text('\n'.join([*lines, '']))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder where the README's commands have been given as functions."""
  folder = tmp_path_factory.mktemp('readme')
  criteo_log(folder / 'train.txt')
  criteo_log(folder / 'new.txt', 20)
  before = pathlib.Path.cwd()
  os.chdir(folder)
  try:
    (code,) = (x for x in blocks('README.md') if 'dlrm_jax.train(' in x)
    made = {}
    exec(code, made)
    assert made['metrics']['auc'] > 0
    assert made['results']
    yield folder
  finally:
    os.chdir(before)


@pytest.mark.slow
def test_the_readme_loads_and_predicts(folder):
  (code,) = (x for x in blocks('README.md') if 'model.predict' in x)
  known = {}
  exec(code.replace("'68fd1e64'", "'00000003'"), known)
  assert known['model'].predict('new.txt').shape == (20,)


@pytest.mark.slow
def test_an_export_scores_with_jax_and_numpy_alone(folder, tmp_path):
  import dlrm_jax
  from dlrm_jax.export.__main__ import main

  export = folder / 'models/kaggle'
  if not export.exists():
    export.parent.mkdir(exist_ok=True)
    assert main(['--workdir=runs/kaggle', f'--output={export}']) == 0
  site = pathlib.Path(jax.__file__).parents[1]
  for name in PACKAGES:
    if (site / name).exists():
      (tmp_path / name).symlink_to(site / name)
  (code,) = (x for x in blocks('docs/export.md') if 'read_safetensors' in x)
  check = """
import sys
assert not {'dlrm_jax', 'flax'} & {*sys.modules}
with np.load('inputs.npz') as given:
  scores = network(parameters, tables, given['dense'], given['ids'])
np.save('scores.npy', scores)
"""
  model = dlrm_jax.load(export)
  schema, chance = model.card.schema, np.random.default_rng(0)
  dense = chance.normal(size=(50, len(schema.dense))).astype(np.float32)
  ids = chance.integers(-2, 9, (50, schema.hotness), np.int32)
  np.savez(folder / 'inputs.npz', dense=dense, ids=ids)
  done = subprocess.run(
    [sys.executable, '-S', '-c', code + check],
    env={'PYTHONPATH': str(tmp_path), 'JAX_PLATFORMS': 'cpu'},
    cwd=folder, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert len(re.findall(r'0\.[0-9]+', done.stdout)) == 2
  found = np.load(folder / 'scores.npy')[:, 0]
  wanted = model.score(dense, ids)
  assert wanted.std() > 1e-3
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
