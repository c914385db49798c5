"""python -m dlrm_jax.quantize, on a small run."""

import json
import re

import jax
import numpy as np
import pytest

import dlrm_jax
from dlrm_jax import sharding
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.network import sparse_forms
from dlrm_jax.build.restored import examined
from dlrm_jax.build.trained import trained
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.models.sparse import Form
from dlrm_jax.optim.pruning import kernels_of
from dlrm_jax.quantization.sparse import usable
from dlrm_jax.quantize.__main__ import main
from dlrm_jax.quantize.budget import expected_losses
from dlrm_jax.quantize.model import Model, quantized, table_bytes, write
from dlrm_jax.quantize.outliers import error_of
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


@pytest.mark.parametrize('part', ['tables', 'params'])
def test_what_is_not_finite_is_refused(run, part, tmp_path, capsys):
  one = chosen(run)
  state = jax.tree.map(np.array, one.state())
  leaf = jax.tree.leaves(getattr(state, part))[0]
  leaf[(0,) * leaf.ndim] = np.nan
  model = Model(one.run, jax.device_put(state))
  write(model, tmp_path / 'bad', one, DEFAULTS)
  for flags in (['--layers=int8'], ['--tables=float16'], ['--tables=float32']):
    out = f'--output={tmp_path}/out'
    assert main([f'--workdir={tmp_path}/bad', *flags, out]) == 1
    said = capsys.readouterr().err
    assert re.search(
      r'table C\d, row \d+: column 0|layer model/\S+: a we', said
    )
    assert said.count('\n') == 1


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


def test_a_budget_makes_no_table_larger(run, tmp_path):
  first, out = tmp_path / 'first', tmp_path / 'out'
  mixed = '--tables=C1=int4,*=int8', f'--output={first}'
  assert not main([f'--workdir={run}', *mixed])
  assert not main([f'--workdir={first}', '--memory=1MB', f'--output={out}'])
  before, after = (
    [table.storage for table in chosen(x).run.task.collection.tables]
    for x in (first, out)
  )
  assert after == before


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
  'more',
  [
    [],
    ['--calibrate'],
    ['--calibrate=train', '--limits=percentile'],
    ['--outliers=2', '--split=test'],
  ],
)
def test_layers_of_int8_score_nearly_alike(run, more, tmp_path, capsys):
  out = tmp_path / 'layers'
  flags = [f'--workdir={run}', '--layers=int8', f'--output={out}', *more]
  assert not main(flags)
  after = chosen(out)
  assert after.run.config.model.compute_dtype == 'int8'
  kernel = after.state().params['model']['top']['dense_0']['kernel']
  assert kernel.dtype == np.int8
  first, second = (dlrm_jax.evaluate(x)['metrics'] for x in (run, out))
  assert second['log_loss'] != first['log_loss']
  opened = examined(after.run, None, 'test', 2048, 'stop')
  model, wanted = (Model(x.run, x.state()) for x in (after, chosen(run)))
  error = error_of(model, wanted, list(opened.batches))
  assert 0 < error < 1e-3
  said = capsys.readouterr().out
  calibrates = any(flag.startswith('--calibrate') for flag in more)
  assert ('add --calibrate' in said) is not calibrates


def test_outliers_and_what_they_gain_are_told(run, tmp_path, capsys):
  flags = f'--workdir={run}', '--layers=int8', f'--output={tmp_path}/out'
  assert main([*flags, '--outliers=99']) == 1
  said = capsys.readouterr().err
  assert re.search(r'=99: no layer has more than \d+ inputs, so none', said)
  assert not main([*flags, '--outliers=4'])
  said = capsys.readouterr().out
  pattern = r'outliers  (\S+)% of the weights .* variance: (\S+), .* (\S+)\n'
  ((share, error, without),) = re.findall(pattern, said)
  assert 0 < float(share) < 100
  assert 0 < float(error) < float(without) < 1e-3
  assert 'stay float32 as a whole: model/' in said


def zeros_of(folder):
  """Share of zeros of each kernel, and the kernels that are packed."""
  one = chosen(folder)
  kernels = kernels_of(one.state().params)
  shares = {name: float(np.mean(x == 0)) for name, x in kernels.items()}
  return shares, sparse_forms(one.run.config)


def test_pruned_layers_are_measured_and_kept_where_faster(
  run, tmp_path, capsys
):
  out = tmp_path / 'sparse'
  flags = ['--sparsity=0.5', '--block=2x2', '--batch=7']
  assert not main([f'--workdir={run}', *flags, f'--output={out}'])
  said = capsys.readouterr().out
  assert 'products of 7 examples' in said
  shares, forms = zeros_of(out)
  rows = re.findall(r'\| (model/\S+) +\| .* (\S+) \|', said)
  told = re.findall(r'the model takes .* whole: they (.*)', said)
  packed = told == ['are packed']
  assert packed or told == ['stay whole'] or {x for _, x in rows} == {'dense'}
  assert [name for name, _ in rows] == list(shares)
  for name, multiplied in rows:
    assert 0.4 <= shares[name] <= 0.6
    form = forms.pop(name, None)
    assert packed or form is None
    assert multiplied == ('dense' if form is None else form.value) or not packed
  assert not forms
  first, second = (dlrm_jax.evaluate(x)['metrics'] for x in (run, out))
  assert second['log_loss'] != first['log_loss']
  assert second['auc'] > 0.5


def test_pruning_goes_with_storages_and_other_types(run, tmp_path):
  out = tmp_path / 'both'
  flags = ['--tables=int8', '--layers=bfloat16', '--sparsity=0.5']
  assert not main([f'--workdir={run}', *flags, f'--output={out}'])
  config = chosen(out).run.config
  assert config.tables.storage == 'int8'
  assert config.model.compute_dtype == 'bfloat16'
  assert max(zeros_of(out)[0].values()) == 0.5


@pytest.fixture(scope='module')
def pruned_run(tmp_path_factory):
  """The workdir of a model that was pruned while it was trained."""
  folder = tmp_path_factory.mktemp('pruned') / 'run'
  config = config_of()
  config.tables.shards = 1  # so that one device scores
  config.train.eval_every = 60  # the best checkpoint is the last
  config.train.pruning = {
    'sparsity': 0.7,
    'block': '1x4',
    'start': 5,
    'steps': 30,
    'every': 10,
  }
  dlrm_jax.train(config, folder)
  return folder


def test_zeros_of_training_stay(pruned_run, tmp_path):
  before, _ = zeros_of(pruned_run)
  for number, flags in enumerate(
    [['--sparsity=0'], ['--sparsity=0.7', '--block=1x4']]
  ):
    out = tmp_path / str(number)
    assert not main([f'--workdir={pruned_run}', *flags, f'--output={out}'])
    assert zeros_of(out)[0] == before
  assert 0.65 < before['model/top/dense_0/kernel'] <= 0.7


@pytest.mark.parametrize('form', Form)
def test_a_loaded_model_scores_as_with_its_zeros(pruned_run, form, tmp_path):
  one, out = chosen(pruned_run), tmp_path / 'packed'
  names = kernels_of(one.state().params)
  config = one.run.config.to_dict()
  config['model']['sparse'] = [f'{name}={form.value}' for name in names]
  model = Model(trained(config, one.run.data), one.state())
  assert model.scored.patterns.keys() == {
    name for name in names if usable(form)
  }
  write(model, out, one, DEFAULTS)
  dense = np.float32(np.random.default_rng(0).normal(size=(50, 4)))
  ids = np.random.default_rng(1).integers(0, 30, (50, 6))
  wanted, found = (
    dlrm_jax.load(x).score(dense, ids) for x in (pruned_run, out)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_int8_layers_are_multiplied_whole(pruned_run, tmp_path, capsys):
  sparse, int8 = tmp_path / 'sparse', tmp_path / 'int8'
  assert not main(
    [f'--workdir={pruned_run}', '--sparsity=0', f'--output={sparse}']
  )
  assert not main([f'--workdir={sparse}', '--layers=int8', f'--output={int8}'])
  assert not chosen(int8).run.config.model.sparse
  for flags in (
    ['--sparsity=0', f'--output={int8}2'],
    ['--layers=int8', f'--output={int8}2'],
    ['--memory=1MB', f'--output={int8}2'],
    ['--layers=float32', f'--output={int8}2'],
    [f'--report={tmp_path}/report.md'],
  ):
    assert main([f'--workdir={int8}', *flags]) == 1
    assert 'are int8 already, and have lost' in capsys.readouterr().err


def tables_of(labels, storage):
  return [x for x in labels if x['tables'] == storage]


@pytest.mark.slow
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
  sparse = [x for x in labels if x['layers'].startswith('sparse')]
  words = [f'sparse {share}, 1x16' for share in (0.5, 0.8, 0.9)]
  assert [x['layers'] for x in sparse] == words
  assert {x['tables'] for x in sparse} == {'float32'}
  assert all(x['log_loss_change']['value'] != 0 for x in sparse)
  sizes = {x['layers']: x['layer_bytes'] for x in tables_of(labels, 'float32')}
  assert sizes['int8'] < sizes['float32'] == sizes['bfloat16']
  text = report.read_text()
  assert '![](report.svg)' in text
  assert text.count('\n| ') == len(labels) + 2
  assert '250 examples' in text
  assert 'were chosen on 250 others' in text
  picture = (tmp_path / 'report.svg').read_text()
  assert picture.startswith('<?xml')
  assert 'layers bfloat16' in picture
  assert 'layers sparse' not in picture
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
    ([], 'give one of --tables, --memory and --report, or --layers, or'),
    (['--layers=int8'], 'name it with --output=DIR'),
    (['--layers=int8', '--report=a.md'], 'leave --layers out'),
    (
      ['--tables=int8', '--outliers=1', '--output=x'],
      '--outliers is for --layers=int8',
    ),
    (['--layers=int8', '--outliers=-1', '--output=x'], 'expected 0 or more'),
    (['--tables=int8', '--calibrate', '--output=x'], 'is for --layers=int8'),
    (
      ['--layers=int8', '--limits=percentile', '--output=x'],
      '--limits=percentile: it is for --calibrate',
    ),
    (
      ['--layers=int8', '--calibrate=nothing', '--output=x'],
      "no split 'nothing'; it has ",
    ),
    (
      ['--layers=int8', '--calibrate', '--split=test', '--output=x'],
      'nothing is measured; name it as --calibrate=test',
    ),
    (['--tables=int8'], 'name it with --output=DIR'),
    (
      ['--tables=int8', '--memory=1GB'],
      'or --sparsity, not --tables and --memory',
    ),
    (['--report=a.md', '--output=x'], 'leave --output out'),
    (['--report=a.txt'], 'expected a name in .md'),
    (['--report={run}.md', '--examples=1'], '--report needs 2 examples'),
    (['--tables=int3', '--output=x'], "'int3' is no storage"),
    (['--memory=lots', '--output=x'], '--memory'),
    (['--memory=1MB', '--output=x', '--examples=0'], 'expected 1 or more'),
    (['--tables=int8', '--output={run}'], 'is there already'),
    (['--tables=int8', '--output=x', '--split=test'], 'has no effect'),
    (['--sparsity=0.5'], '--sparsity writes a workdir: name it with'),
    (['--sparsity=1', '--output=x'], '--sparsity=1: expected a share from 0'),
    (['--sparsity=-0.1', '--output=x'], '--sparsity=-0.1: expected a share'),
    (['--sparsity=nan', '--output=x'], '--sparsity=nan: expected a share'),
    (['--sparsity=most', '--output=x'], '--sparsity=most: expected a number'),
    (['--sparsity=0.5', '--report=a.md'], 'leave --sparsity out'),
    (
      ['--sparsity=0.5', '--block=8by1', '--output=x'],
      "--block is '8by1'; expected rows and columns of a kernel, as in 8x1",
    ),
    (
      ['--sparsity=0.5', '--block=99x99', '--output=x'],
      '--block=99x99 has no effect: no kernel has so many blocks',
    ),
    (['--sparsity=0', '--block=2x2', '--output=x'], 'prunes nothing'),
    (['--sparsity=0', '--output=x'], 'has no effect: no kernel has'),
    (['--tables=int8', '--block=2x2', '--output=x'], 'it is for --sparsity'),
    (['--layers=int8', '--batch=2', '--output=x'], 'it is for --sparsity'),
    (['--sparsity=0.5', '--batch=0', '--output=x'], 'expected 1 or more'),
    (
      ['--sparsity=0.5', '--layers=int8', '--output=x'],
      'sparse layers are floats',
    ),
  ],
)
def test_mistakes_are_told_in_one_line(run, flags, message, capsys):
  flags = [flag.format(run=run) for flag in flags]
  assert main([f'--workdir={run}', *flags]) == 1
  said = capsys.readouterr().err
  assert message in said
  assert said.count('\n') == 1
