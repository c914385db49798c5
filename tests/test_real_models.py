"""Models of real logs: predicted, exported, converted and explained.

A few steps of training on the first rows of each; what counts is that all
commands take such columns, and agree.
"""

import importlib.util
import itertools
import subprocess
import sys

import jax
import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax import sharding
from dlrm_jax.config import config_file
from dlrm_jax.convert.__main__ import main as convert
from dlrm_jax.export.__main__ import main as export
from dlrm_jax.importance.__main__ import main as importance
from dlrm_jax.predict.__main__ import main as predict
from dlrm_jax.quantize.__main__ import main as quantize

pytestmark = pytest.mark.slow
ROWS = 3000


def head(source, target, rows=ROWS):
  """Copies the first lines of a file."""
  with source.open() as file:
    target.write_text(''.join(itertools.islice(file, rows)))
  return target


def criteo(data, folder):
  log = head(data / 'criteo_kaggle_sample/train.txt', folder / 'train.txt')
  dlrm_jax.prepare('criteo', folder / 'set', input=[log])
  return 'criteo_kaggle', log, 'C3'


def frappe(data, folder):
  log = head(data / 'frappe/valid.csv', folder / 'log.csv')
  dlrm_jax.prepare('raw', folder / 'set', config='frappe', input=[log])
  return 'frappe', log, 'item'


def movielens(data, folder):
  log = data / 'movielens/ml-latest-small.zip'
  name = 'latest-small-ratings'
  dlrm_jax.prepare('movielens', folder / 'set', name=name, input=log)
  return 'movielens', log, 'movie'


def implicit(data, folder):
  source = data / 'ncf_ml1m/ml-1m.train.rating'
  log = head(source, folder / 'train.rating')
  dlrm_jax.prepare('implicit', folder / 'set', input=[log])
  return 'ncf:neumf', log, 'item'


@pytest.fixture(
  scope='module',
  params=[criteo, frappe, movielens, implicit],
  ids=['criteo', 'frappe', 'movielens', 'implicit'],
)
def trained(request, real_data, tmp_path_factory):
  """Folder of a run, its log, and the name of a feature."""
  folder = tmp_path_factory.mktemp('real')
  name, log, feature = request.param(real_data, folder)
  config = config_file.load(name)
  config.data.dir = str(folder / 'set')
  config.train.steps, config.train.epochs = 3, 0
  config.train.batch_size = 400
  if config.data.negatives:
    config.train.batch_size = 480
  with jax.numpy_dtype_promotion('standard'):  # Optax's Adam needs it
    dlrm_jax.train(config, folder / 'run')
  assert export([f'--workdir={folder}/run', f'--output={folder}/export']) == 0
  return folder, log, feature


def test_files_are_scored_by_run_and_export_alike(trained, tmp_path):
  folder, log, _ = trained
  scores = []
  for model in ('run', 'export'):
    output = tmp_path / f'{model}.parquet'
    flags = f'--workdir={folder}/{model}', f'--data={log}'
    assert predict([*flags, f'--output={output}']) == 0
    scores.append(pl.read_parquet(output)['probability'].to_numpy())
  np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)
  assert np.isfinite(scores[0]).all()
  assert scores[0].std() > 0


@pytest.mark.parametrize(
  'limits', [[], ['--calibrate=train', '--limits=percentile']]
)
def test_int8_layers_score_alike_by_both_engines(
  trained, limits, tmp_path, monkeypatch
):
  pytest.importorskip('onnxruntime')
  folder, log, _ = trained
  output = tmp_path / 'int8'
  flags = f'--workdir={folder}/run', '--tables=int8', '--layers=int8'
  assert quantize([*flags, *limits, f'--output={output}']) == 0
  one = jax.devices()[:1]
  monkeypatch.setattr(sharding, 'choose_devices', lambda shards: one)
  found = dlrm_jax.load(output)
  assert found.engine.startswith('int8, by onnxruntime')
  with monkeypatch.context() as patch:
    patch.setattr(importlib.util, 'find_spec', lambda name: None)
    wanted = dlrm_jax.load(output)
  assert wanted.engine.startswith('int8, by XLA')
  first, second = found.predict(log), wanted.predict(log)
  floats = dlrm_jax.load(folder / 'run').predict(log)
  assert 0 < np.abs(first - second).mean() < 0.1 * np.abs(floats - first).mean()
  assert second.std() > 0


def test_columns_in_csv_give_what_the_log_gives(trained, tmp_path):
  """Of rows that a frame has as the log has them."""
  folder, _, feature = trained
  model = dlrm_jax.load(folder / 'export')
  frame = model.vectors(feature)
  value = frame['value'].drop_nulls()[0]
  near = model.similar(feature, value, 3)
  assert near.height == 3
  assert value not in near['value'].to_list()
  names = model.intake.schema.names
  row = dict.fromkeys(names) | {feature: value}
  (one,) = model.predict({name: [x] for name, x in row.items()})
  (tmp_path / 'one.csv').write_text(
    ','.join(names) + '\n' + ','.join(str(row[n] or '') for n in names) + '\n'
  )
  np.testing.assert_allclose(
    model.predict(tmp_path / 'one.csv'), [one], rtol=0, atol=1e-6
  )


def test_vectors_go_out_and_come_in(trained, tmp_path):
  folder, _, feature = trained
  model = dlrm_jax.load(folder / 'run')
  roles = model.describe()['roles']
  name = feature if len(roles) == 1 else f'{feature}/{roles[0]}'
  file = tmp_path / 'vectors.parquet'
  flags = f'--workdir={folder}/export', f'--tables={name}={file}'
  assert convert(['--to=tables', *flags]) == 0
  assert pl.read_parquet(file).height == len(model.learned.matrix(feature))


def test_features_are_ranked_by_their_importance(trained, capsys):
  folder, _, feature = trained
  flags = '--examples=300', '--repeats=2', '--split=validation'
  if (folder / 'train.rating').exists():
    flags = flags[:2]
  assert importance([f'--workdir={folder}/run', *flags]) == 0
  assert feature in capsys.readouterr().out
  assert (folder / 'run/importance.json').exists()


def test_a_criteo_model_goes_to_the_reference_and_back(trained, tmp_path):
  folder, _, _ = trained
  if not (folder / 'train.txt').exists():
    pytest.skip('facebookresearch/dlrm has no such model')
  pytest.importorskip('torch')
  file = tmp_path / 'model.pt'
  flags = f'--workdir={folder}/run', f'--output={file}'
  assert convert(['--to=fb', *flags]) == 0
  flags = '--config=criteo_kaggle', f'--config.data.dir={folder}/set'
  flags += f'--input={file}', f'--workdir={tmp_path}/again'
  assert convert(['--from=fb', *flags]) == 0
  data = folder / 'train.txt'
  found = dlrm_jax.load(tmp_path / 'again').predict(data)
  wanted = dlrm_jax.load(folder / 'run').predict(data)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_standard_input_is_scored(trained, tmp_path):
  folder, log, _ = trained
  if log.suffix == '.zip':
    pytest.skip('an archive is no text')
  output = tmp_path / 'scores.csv'
  flags = f'--workdir={folder}/export', '--data=-', f'--output={output}'
  with log.open('rb') as file:
    subprocess.run(
      [sys.executable, '-m', 'dlrm_jax.predict', *flags],
      stdin=file,
      check=True,
      capture_output=True,
    )
  found = pl.read_csv(output)['probability'].to_numpy()
  wanted = dlrm_jax.load(folder / 'export').predict(log)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
