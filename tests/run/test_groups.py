"""Metrics within groups in an evaluation: kept, joined, bounded, shown."""

import dataclasses
import json
import math

import numpy as np
import pytest

from dlrm_jax.batch import NO_GROUP, Batch, Inputs
from dlrm_jax.build.run import build_run
from dlrm_jax.cluster.signals import Signals
from dlrm_jax.data.schema import BLOCK_ROWS
from dlrm_jax.metrics import binary
from dlrm_jax.metrics.grouped import Examples, group_scores
from dlrm_jax.run import groups, loop
from dlrm_jax.run.groups import Kept
from dlrm_jax.run.history import read_history
from dlrm_jax.run.scoring import undefined_lines
from dlrm_jax.synthetic.log import Synthetic
from tests import job, small

HEADS = 'click', 'like'


def batches(count=3, size=64, grouped=True):
  """Batches, and the logits of each."""
  rng = np.random.default_rng(0)
  for _ in range(count):
    labels = rng.integers(0, 2, (size, 2)).astype(np.float32)
    labels[rng.random(size) < 0.3, 1] = np.nan
    group = rng.integers(NO_GROUP, 9, size).astype(np.int32)
    inputs = Inputs(
      np.zeros((size, 0), np.float32),
      np.zeros((size, 1), np.int32),
      group=group if grouped else None,
    )
    weights = rng.integers(0, 3, size).astype(np.float32)
    logits = np.round(rng.normal(size=(size, 2)), 1).astype(np.float32)
    yield Batch(inputs, labels, weights), logits


def scored(given):
  kept = Kept(HEADS)
  for batch, logits in given:
    kept.add(batch, logits)
  tallies = kept.into({name: binary.empty() for name in HEADS})
  return {name: tally.within for name, tally in tallies.items()}


def test_each_head_is_scored_on_the_examples_with_its_label_and_a_group():
  found = scored(batches())
  for head, name in enumerate(HEADS):
    parts = [
      (b.inputs.group, x[:, head], b.labels[:, head], b.weights)
      for b, x in batches()
    ]
    group, logits, labels, weights = (
      np.concatenate(part) for part in zip(*parts, strict=True)
    )
    counts = ~np.isnan(labels) & (weights > 0) & (group != NO_GROUP)
    given = (group, logits, labels, weights)
    assert found[name] == group_scores(Examples(*(x[counts] for x in given)))


def test_data_without_groups_has_no_such_metrics():
  assert scored(batches(grouped=False)) == {'click': None, 'like': None}
  assert 'uauc' not in binary.summarize(binary.empty())


def test_more_examples_than_are_kept_leave_them_undefined(monkeypatch):
  monkeypatch.setattr(groups, 'MOST_GROUPED', 70)
  within = scored(batches())['click']
  assert math.isnan(within.wuauc)
  scores = binary.summarize(
    binary.tally([1, 0], [1, 0], [1, 1])._replace(within=within)
  )
  (line,) = undefined_lines('test', scores)
  assert 'no example with a group, or more than' in line


JOB = """
import json, pathlib, sys
import jax
from dlrm_jax.cluster import job
from dlrm_jax.config.parser import Parser
from tests.run.test_groups import batches, scored
parser = Parser()
job.add_arguments(parser)
folder, *flags = sys.argv[1:]
with job.joined(parser.parse_args(flags)):
  process, of = jax.process_index(), jax.process_count()
  mine = [x for n, x in enumerate(batches()) if n % of == process]
  path = pathlib.Path(folder) / f'{process}.json'
  path.write_text(json.dumps(scored(mine)))
"""


@pytest.mark.slow
def test_processes_get_the_same_bits_as_one(tmp_path):
  job.run(['-c', JOB, tmp_path], 2)
  want = {name: list(within) for name, within in scored(batches()).items()}
  for process in range(2):
    assert json.loads((tmp_path / f'{process}.json').read_text()) == want


class Grouped:
  """Blocks of a log whose examples are dealt to groups."""

  def __init__(self, source, schema, count):
    self._source, self._count = source, count
    self.schema, self.examples = schema, source.examples

  def __len__(self):
    return len(self._source)

  def __getitem__(self, number):
    block = self._source[number]
    places = number * BLOCK_ROWS + np.arange(len(block.labels))
    return block._replace(group=(places % self._count).astype(np.int32))


@dataclasses.dataclass(frozen=True)
class Log(Synthetic):
  """A synthetic log with groups."""

  count: int = 40

  @property
  def schema(self):
    return dataclasses.replace(super().schema, grouped=True)

  def source(self, split):
    return Grouped(super().source(split), self.schema, self.count)


def train(folder, count):
  config = small.get_config()
  config.train.steps = config.train.eval_every = 10
  config.train.objective = 'wuauc'
  config.optimizer.name = 'adagrad'
  data = Log(
    train=8_000, validation=2_000, test=1_000, tables=(50, 30), hotness=(1, 3),
    count=count,
  )  # fmt: skip
  run = build_run(config, data, folder)
  run = dataclasses.replace(run, references=lambda _: {'click': {}})
  with Signals() as signals:
    assert loop.train(run, signals) == 0


@pytest.mark.slow
def test_a_run_says_logs_and_decides_by_them(tmp_path, capsys):
  train(tmp_path, 40)
  said = capsys.readouterr().out
  assert 'uAUC 0.' in said
  assert 'the best by validation wuAUC' in said
  results = json.loads((tmp_path / 'results.json').read_text())['splits']
  assert results['test']['groups'] + results['test']['groups_left_out'] == 40
  (row,) = (x for x in read_history(tmp_path) if 'validation/wuauc' in x)
  assert row['validation/wuauc'] == results['validation']['wuauc']
  assert 'wuAUC during training' in (tmp_path / 'report.html').read_text()


@pytest.mark.slow
def test_undefined_ones_are_said_and_decide_nothing(tmp_path, capsys):
  train(tmp_path, 10**6)
  said = capsys.readouterr().out
  assert said.count('it neither stops the run early') == 1
  assert 'validation has no group with a click and a non-click' in said
  assert 'validation wuAUC is undefined' in said
