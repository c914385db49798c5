"""python -m dlrm_jax.quantize, on a small run."""

import json
import re

import numpy as np
import pytest

import dlrm_jax
from dlrm_jax import sharding
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.restored import examined
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.quantize.__main__ import main
from dlrm_jax.quantize.budget import expected_losses
from dlrm_jax.quantize.model import quantized, table_bytes
from tests import small

DEFAULTS = default.get_config().to_dict()


def config_of():
  config = small.get_config()
  config.train.fresh_tables = False
  config.optimizer.name = config.table_optimizer.name = 'adagrad'
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of a trained model."""
  folder = tmp_path_factory.mktemp('quantize') / 'run'
  dlrm_jax.train(config_of(), folder)
  return folder


def chosen(folder):
  return choose(folder, 'best', DEFAULTS)


def test_a_quantised_model_is_evaluated_like_any(run, tmp_path, capsys):
  out = tmp_path / 'int8'
  assert not main([f'--workdir={run}', '--tables=int8', f'--output={out}'])
  said = capsys.readouterr().out
  assert re.search(r'int8 +C1, C2, C3, C4\n', said)
  before, after = chosen(run), chosen(out)
  assert after.step == before.step
  rows = sum((50, 40, 30, 30))
  assert table_bytes(before.run) == 16 * rows
  assert table_bytes(after.run) == (4 + 8) * rows
  first = dlrm_jax.evaluate(run)['metrics']
  second = dlrm_jax.evaluate(out)['metrics']
  assert second['auc'] == pytest.approx(first['auc'], abs=2e-3)
  assert second['log_loss'] != first['log_loss']


def test_a_model_of_a_mixture_scores_with_its_own_rows(run, tmp_path):
  out = tmp_path / 'mixed'
  tables = '--tables=C2=float16,C[13]=int4'
  assert not main([f'--workdir={run}', tables, f'--output={out}'])
  before, after = chosen(run), chosen(out)
  a, b = before.state(), after.state()
  storages = {
    table.name: table.storage for table in after.run.task.collection.tables
  }
  names = {name: storage.name for name, storage in storages.items()}
  assert names == {'C1': 'int4', 'C2': 'float16', 'C3': 'int4', 'C4': 'float32'}
  for name, storage in storages.items():
    old = np.asarray(before.run.task.collection.read(a.tables, name))
    new = np.asarray(after.run.task.collection.read(b.tables, name))
    want = storage.decode(storage.encode(old, None), 4)
    np.testing.assert_array_equal(new, want)


def test_a_budget_is_kept(run, tmp_path, capsys):
  out = tmp_path / 'small'
  assert not main([f'--workdir={run}', '--memory=0.0015MB', f'--output={out}'])
  assert table_bytes(chosen(out).run) <= 1500
  assert 'tables    2.4 kB ->' in capsys.readouterr().out
  assert (
    main([f'--workdir={run}', '--memory=0.00001MB', f'--output={out}2']) == 1
  )
  assert 'with the fewest bits the tables have' in capsys.readouterr().err


def test_fewer_bits_are_expected_to_cost_more(run):
  one = chosen(run)
  features = [column['name'] for column in one.run.data['sparse']]
  opened = examined(one.run, None, 'train', 2048, 'stop')
  batches = [sharding.send(batch) for batch in opened.batches]

  def kept_as(storage):
    return quantized(one, dict.fromkeys(features, storage))

  found = expected_losses(
    kept_as('float32'),
    batches,
    ['float32', 'float16', 'int8', 'int4', 'int2'],
    kept_as,
    lambda: None,
  )
  for feature in features:
    costs = [of_one[feature] for of_one in found.values()]
    assert costs == sorted(costs)
    assert costs[0] == 0
    assert costs[-1] > 10 * costs[2]


@pytest.mark.parametrize(
  'more', [[], ['--activations=percentile'], ['--outliers=2']]
)
def test_layers_of_int8_score_nearly_alike(run, more, tmp_path):
  out = tmp_path / 'layers'
  flags = [f'--workdir={run}', '--layers=int8', f'--output={out}', *more]
  assert not main(flags)
  after = chosen(out)
  assert after.run.config.model.compute_dtype == 'int8'
  kernel = after.state().params['model']['top']['dense_0']['kernel']
  assert kernel.dtype == np.int8
  first, second = (dlrm_jax.evaluate(x)['metrics'] for x in (run, out))
  assert second['auc'] == pytest.approx(first['auc'], abs=5e-3)
  assert second['log_loss'] != first['log_loss']


def test_a_report_has_all_choices(run, tmp_path, capsys):
  report = tmp_path / 'report.md'
  assert not main([f'--workdir={run}', f'--report={report}', '--examples=500'])
  labels = json.loads((tmp_path / 'report.json').read_text())
  tables = {x['tables']: x for x in labels if x['layers'] == 'float32'}
  assert tables.keys() == {
    *('float32', 'float16', 'bfloat16', 'int8', 'int4', 'int2'),
    'mixed, a half',
  }
  first = tables['float32']
  assert first['auc_change']['value'] == first['log_loss_change']['value'] == 0
  assert tables['int2']['log_loss_change']['value'] != 0
  assert tables['int2']['bytes'] < tables['int8']['bytes'] < first['bytes']
  assert all(x['latency_ms']['1024'] > 0 for x in labels)
  text = report.read_text()
  assert '![](report.svg)' in text
  assert text.count('\n| ') == len(labels) + 2
  assert '500 examples' in text
  assert (tmp_path / 'report.svg').read_text().startswith('<?xml')
  assert 'see' in capsys.readouterr().out


def test_training_does_not_go_on_from_it(run, tmp_path, capsys):
  out = tmp_path / 'int8'
  assert not main([f'--workdir={run}', '--tables=int8', f'--output={out}'])
  config = config_of()
  config.tables.storage = 'int8'
  config.train.steps = 100
  before = (out / 'config.json').read_bytes()
  with pytest.raises(
    InputError, match='quantize made this model, which is for'
  ):
    dlrm_jax.train(config, out)
  assert (out / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], 'give one of --tables, --memory and --report, or --layers'),
    (['--layers=int8'], 'name it with --output=DIR'),
    (['--layers=int8', '--report=a.md'], 'leave --layers out'),
    (
      ['--tables=int8', '--outliers=1', '--output=x'],
      'it is for --layers=int8',
    ),
    (['--layers=int8', '--outliers=-1', '--output=x'], 'expected 0 or more'),
    (['--tables=int8'], 'name it with --output=DIR'),
    (
      ['--tables=int8', '--memory=1GB'],
      'or --layers, not --tables and --memory',
    ),
    (['--report=a.md', '--output=x'], 'leave --output out'),
    (['--report=a.txt'], 'expected a name in .md'),
    (['--tables=int3', '--output=x'], "'int3' is no storage"),
    (['--memory=lots', '--output=x'], '--memory'),
    (['--memory=1MB', '--output=x', '--examples=0'], 'expected 1 or more'),
    (['--tables=int8', '--output={run}'], 'is there already'),
    (['--tables=int8', '--output=x', '--split=test'], 'has no effect'),
  ],
)
def test_mistakes_are_told_in_one_line(run, flags, message, capsys):
  flags = [flag.format(run=run) for flag in flags]
  assert main([f'--workdir={run}', *flags]) == 1
  said = capsys.readouterr().err
  assert message in said
  assert said.count('\n') == 1
