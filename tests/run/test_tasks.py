"""A run of a model with two tasks: trained, evaluated, stopped, reported."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.build.data import identity
from dlrm_jax.build.run import build_run
from dlrm_jax.build.trained import check_fits
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.errors import InputError
from dlrm_jax.run import loop
from dlrm_jax.run.history import read_history
from dlrm_jax.synthetic.log import Synthetic
from tests import small
from tests.commands import run

LABELS = 'click', 'like'


class TwoLabels:
  """Blocks of a log with a second label, which some examples lack."""

  def __init__(self, source, schema):
    self._source = source
    self.schema, self.examples = schema, source.examples

  def __len__(self):
    return len(self._source)

  def __getitem__(self, number):
    block = self._source[number]
    likes = (block.dense[:, :1] > 0).astype(np.float32)
    likes[::3] = np.nan
    labels = np.concatenate([block.labels, likes], 1)
    return block._replace(labels=labels)


@dataclasses.dataclass(frozen=True)
class Log(Synthetic):
  """A synthetic log with a second label that one dense feature tells."""

  @property
  def schema(self):
    return dataclasses.replace(super().schema, labels=LABELS)

  def source(self, split):
    return TwoLabels(super().source(split), self.schema)


def train(folder, steps, objective, **tables):
  config = small.get_config()
  config.tables.update(tables)
  config.tables.shards = 2
  config.optimizer.name = config.table_optimizer.name = 'adagrad'
  config.train.fresh_tables = False
  config.train.steps, config.train.eval_every = steps, 10
  config.train.eval_batch_size = 512
  config.train.objective = objective
  data = Log(
    train=10_000, validation=3_000, test=2_000, tables=(50, 30), hotness=(1, 3)
  )
  run = build_run(config, data, folder)
  run = dataclasses.replace(run, references=lambda _: {x: {} for x in LABELS})
  mesh = sharding.make_mesh(jax.devices()[:2])
  with Signals() as signals, sharding.use(mesh):
    assert loop.train(run, signals) == 0


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tasks')
  train(folder, 40, 'like/log_loss')
  return folder


def test_both_tasks_are_learned_and_scored(trained):
  splits = json.loads((trained / 'results.json').read_text())['splits']
  names = [f'{s}/{x}' for s in ('validation', 'test') for x in LABELS]
  assert list(splits) == names
  assert splits['test/like']['auc'] > 0.7
  assert 0.55 < splits['test/click']['auc'] < 0.9
  assert splits['test/click']['examples'] == 2_000
  assert splits['test/like']['examples'] == 2_000 - 2_000 // 3 - 1


def test_the_objective_chooses_the_checkpoint(trained):
  losses = {
    row['step']: row['validation/like/log_loss']
    for row in read_history(trained)
    if 'validation/like/log_loss' in row
  }
  best = json.loads((trained / 'results.json').read_text())['step']
  assert best == min(losses, key=losses.get)


def test_the_report_has_both(trained):
  page = (trained / 'report.html').read_text()
  for label in LABELS:
    assert f'test/{label}' in page


@pytest.mark.slow
def test_nodes_with_tables_of_their_own_are_scored_for_each_task(
  tmp_path, capsys
):
  train(tmp_path, 10, 'like/ne', placement='independent')
  said = capsys.readouterr().out
  assert 'nodes, click' in said
  assert 'nodes, like' in said
  nodes = json.loads((tmp_path / 'results.json').read_text())['nodes']
  assert 'like/auc' in nodes['scores']['node 1']


@pytest.mark.slow
def test_evaluate_tells_the_calibration_of_each_task(tmp_path):
  sizes = {'train': 2_000, 'validation': 500, 'test': 500}
  flags = [f'--config.data.synthetic.{k}={n}' for k, n in sizes.items()]
  flags += ['--config.train.steps=2', '--config.train.batch_size=256']
  config = '--config=configs/multitask.py:shared_bottom'
  run(['train.py', config, f'--workdir={tmp_path}', *flags])
  done = run(['-m', 'dlrm_jax.evaluate', f'--workdir={tmp_path}'])
  *lines, last = done.stdout.splitlines()
  said = json.loads(last)
  for label in ('click', 'conversion'):
    title = f'calibration of test/{label}, by group of predictions'
    assert title in lines
    groups = said[f'{label}/calibration_groups']
    clicks = sum(group['actual'] * group['examples'] for group in groups)
    assert clicks == pytest.approx(said['metrics'][f'{label}/clicks'])


def test_what_decides_is_printed(tmp_path, capsys):
  train(tmp_path, 10, 'like/ne')
  lines = capsys.readouterr().out.splitlines()
  (like,) = (x for x in lines if 'validation/like AUC' in x)
  (click,) = (x for x in lines if 'validation/click AUC' in x)
  assert 'normalised entropy' in like
  assert 'normalised entropy' not in click


def test_labels_of_data_must_be_those_of_the_run():
  data = Log(train=1000)
  other = dataclasses.replace(Synthetic(train=1000))
  known = identity(data) | {'ids': identity(other)['ids']}
  with pytest.raises(InputError, match='other labels'):
    check_fits(other, known)
