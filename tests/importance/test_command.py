"""The command, on a run with two labels, weighted bags and a set of its own."""

import json
import re

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.build.chosen import choose
from dlrm_jax.build.data import identity, open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.configs import default
from dlrm_jax.data.schema import Block, Column, Schema
from dlrm_jax.importance.__main__ import main
from dlrm_jax.importance.permuted import columns_of, order_of
from dlrm_jax.run import loop, workdir
from tests.archives import unpack
from tests.commands import ROOT
from tests.sets import write_set

LABELS = 'click', 'like'
SCHEMA = Schema(
  ('signal', 'noise', 'same'),
  (Column('site', 12), Column('tags', 20, 3)),
  LABELS,
)
DEFAULTS = default.get_config().to_dict()


def block(count, seed):
  """Clicks depend on the signal, likes on tags and their weights.

  A third of the examples has no like.
  """
  rng = np.random.default_rng(seed)
  dense = rng.normal(size=(count, 3)).astype(np.float32)
  dense[:, 2] = 1
  ids = rng.integers(0, 12, (count, 4)).astype(np.int32)
  ids[:, 3][rng.random(count) < 0.5] = -1
  weights = rng.uniform(0.5, 1.5, (count, 4)).astype(np.float32)
  of_tags = np.where(ids[:, 1:] >= 0, ids[:, 1:] % 2 * 2 - 1, 0)
  logits = 3 * dense[:, 0], 2 * np.sum(of_tags * weights[:, 1:], 1)
  labels = rng.random((count, 2)) < 1 / (1 + np.exp(-np.stack(logits, 1)))
  labels = labels.astype(np.float32)
  labels[::3, 1] = np.nan
  return Block(dense, ids, labels, weights)


def train(place, steps):
  """Trains, or goes on, on one device."""
  config = default.get_config()
  config.data.dir = str(place / 'set')
  config.model.name, config.model.dim = 'shared_bottom', 4
  config.model.shared_bottom.shared, config.model.top = (16,), (8,)
  config.model.bottom = (8,)
  config.optimizer.name = config.table_optimizer.name = 'adagrad'
  config.optimizer.learning_rate = 0.02
  config.table_optimizer.learning_rate = 0.1
  config.train.batch_size, config.train.eval_batch_size = 256, 600
  config.train.steps, config.train.eval_every = steps, 40
  run = build_run(config, open_data(config), place / 'run')
  claim = workdir.Claim(run.config, identity(run.data), steps, DEFAULTS)
  with (
    Signals() as signals,
    sharding.use(sharding.make_mesh(jax.devices()[:1])),
    workdir.claimed(place / 'run', claim),
  ):
    assert loop.train(run, signals) == 0


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp('importance')
  blocks = {'train': block(4000, 0), 'validation': block(1500, 1)}
  write_set(folder / 'set', SCHEMA, blocks)
  train(folder, 80)
  return folder


def written(place):
  return json.loads((place / 'run' / 'importance.json').read_text())


@pytest.fixture(scope='module')
def found(place):
  """What is measured on all devices."""
  assert main([f'--workdir={place}/run', '--repeats=2', '--seed=5']) == 0
  return written(place)


@pytest.fixture
def measured(place, capsys):
  """Measures; lines that were printed, and the JSON."""

  def run(*flags):
    status = main([f'--workdir={place}/run', *flags])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out.splitlines(), written(place)

  return run


def by_feature(found, label):
  return {x['feature']: x for x in found['labels'][label]['features']}


def area(logits, labels):
  """AUC by counting all pairs."""
  clicks, others = logits[labels == 1], logits[labels == 0]
  won = clicks[:, None] > others
  return np.mean(won + (clicks[:, None] == others) / 2)


def losses(logits, labels):
  known = ~np.isnan(labels)
  x, y = logits[known].astype(np.float64), labels[known]
  return np.mean(np.log1p(np.exp(-x)) + (1 - y) * x), area(x, y)


@pytest.mark.slow
def test_it_equals_a_loop_over_features_repeats_and_pairs(place, found):
  chosen = choose(place / 'run', 'best', DEFAULTS)
  state, network = chosen.state(), chosen.run.task.network
  examples = block(1500, 1)

  @jax.jit
  def logits(dense, ids, weights):
    inputs = Inputs(dense, ids, weights)
    return network.outputs(state.layers, state.tables, inputs)

  def scored(examples):
    x = np.asarray(logits(examples.dense, examples.ids, examples.id_weights))
    return [losses(x[:, i], examples.labels[:, i]) for i in range(2)]

  base = scored(examples)
  for i, label in enumerate(LABELS):
    metrics = found['labels'][label]['metrics']
    assert metrics['log_loss'] == pytest.approx(base[i][0], abs=1e-5)
    assert metrics['auc'] == pytest.approx(base[i][1], abs=1e-4)
  for number, column in enumerate(columns_of(SCHEMA)):
    orders = [order_of(5, number, repeat, 1500) for repeat in range(2)]
    after = [scored(column.permuted(examples, order)) for order in orders]
    for i, label in enumerate(LABELS):
      log_losses, areas = np.array([x[i] for x in after]).T
      one = by_feature(found, label)[column.name]
      worse, lower = log_losses - base[i][0], base[i][1] - areas
      assert one['log_loss_increase'] == pytest.approx(worse.mean(), abs=1e-5)
      assert one['auc_decrease'] == pytest.approx(lower.mean(), abs=1e-4)
      error = abs(worse[0] - worse[1]) / 2
      assert one['log_loss_increase_repeats_std_error'] == pytest.approx(
        error, abs=1e-5
      )


def test_what_decides_comes_first_and_noise_is_told(found):
  assert found['data'] == 'validation'
  assert (found['step'], found['examples']) == (80, 1500)
  for label, feature in zip(LABELS, ('signal', 'tags'), strict=True):
    of_label = by_feature(found, label)
    assert next(iter(of_label)) == feature
    assert of_label[feature]['log_loss_increase'] > 0.3
    assert of_label[feature]['auc_decrease'] > 0.2
    assert abs(of_label['noise']['log_loss_increase']) < 0.02
    assert of_label['same']['constant']


def test_it_does_not_depend_on_the_devices(found, measured, monkeypatch):
  one_device = jax.devices()[:1]
  monkeypatch.setattr(sharding, 'choose_devices', lambda shards: one_device)
  lines, one = measured('--repeats=2', '--seed=5')
  for label in LABELS:
    a, b = by_feature(found, label), by_feature(one, label)
    for feature in a:
      for key, value in a[feature].items():
        if key != 'feature':
          assert value == pytest.approx(b[feature][key], abs=1e-5), key
    at = lines.index(next(x for x in lines if f'validation/{label}:' in x))
    assert lines[at + 2].split()[0] == next(iter(a))
  assert 'plan      5 features x 2 repeats of 1,500 examples; 1 the ' in (
    '\n'.join(lines)
  )
  assert not any(line.startswith('{') for line in lines)


def test_equal_seeds_give_equal_results(place, measured):
  flags = '--repeats=1', '--examples=400', f'--data={place}/set'
  lines, first = measured(*flags)
  assert measured(*flags)[1] == first
  assert measured(*flags, '--seed=1')[1] != first
  assert first['data'] == f'{place}/set, split validation'
  assert first['examples'] == 400
  assert '400 examples, of 1,500, evenly spread' in '\n'.join(lines)


def test_the_json_alone_is_printed_and_is_that_of_the_file(place, measured):
  lines, kept = measured('--repeats=1', '--examples=50', '--json')
  (line,) = lines
  assert json.loads(line) == {'workdir': f'{place}/run', **kept}
  lines, kept = measured(
    '--repeats=1', '--examples=50', f'--json={place}/written.json'
  )
  assert json.loads(lines[-1]) == {'workdir': f'{place}/run', **kept}
  assert (place / 'written.json').read_text() == lines[-1] + '\n'


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_importance_in_the_report(place, measured):
  report = place / 'run' / 'report.html'
  lines, _ = measured('--repeats=1', '--checkpoint=40')
  assert lines[-1] == f'see {report}'
  text = report.read_text()
  assert text.count('<h2>Importance of features</h2>') == 1
  assert 'Checkpoint of step 40, scored on 1,500 examples of valid' in text
  train(place, 90)
  again = report.read_text()
  assert '90 steps of 256 examples' in again

  def section(text):
    (found,) = re.findall(
      '<h2>Importance of features</h2>.*?(?=<h2>)', text, re.DOTALL
    )
    return found

  assert section(again) == section(text)


@pytest.fixture
def old(tmp_path, monkeypatch):
  unpack(ROOT / 'tests/old/written_by_9396860.tar.gz', tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_raw_files_are_scored_and_bad_rows_are_counted(old, capsys):
  text = (old / 'new.csv').read_text().splitlines()
  (old / 'bad.csv').write_text('\n'.join([text[0], 'broken', *text[1:]]))
  flags = '--workdir=finished', '--data=bad.csv', '--repeats=1'
  assert main(flags) == 1
  assert 'bad.csv, line 2' in capsys.readouterr().err
  assert main([*flags, '--on_bad_row=skip', '--json']) == 0
  found = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert found['bad_rows']['counts'] == {'wrong number of columns': 1}
  assert found['examples'] == len(text) - 1
  (old / 'none.csv').write_text('\n'.join([text[0], 'broken']))
  flags = '--workdir=finished', '--data=none.csv', '--on_bad_row=skip'
  assert main(flags) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: none.csv: no row is left to evaluate on: skip')
  assert len(said.splitlines()) == 1
