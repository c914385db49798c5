r"""Independent tables beside synchronous ones: quality, and bytes exchanged.

  python -m benchmarks.independent data/kaggle --picture=docs/independent.svg

The config criteo_kaggle, with SGD 0.1 and with Adagrad 0.01, several seeds.
Training runs on one device, where N nodes learn what they learn on N devices.
Bytes are those that a device sends in a step (as many arrive), counted in the
program compiled for N fake CPU devices; an average of the tables is divided
by the steps between two of them. Nothing of that is allocated or run.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from benchmarks import machine
from configs import criteo_kaggle
from dlrm_jax import sharding
from dlrm_jax.build.data import open_data, open_schema
from dlrm_jax.build.run import build_run
from dlrm_jax.build.task import build_task
from dlrm_jax.data.loader import evaluation_batches, training_batches
from dlrm_jax.data.schema import Data
from dlrm_jax.hlo import collectives, exchanged
from dlrm_jax.plan.compiled import compile_step
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.run.scores import by_head, flat_scores
from dlrm_jax.training.nodes import compiled_average, divergence, node_count
from dlrm_jax.training.state import Task, TrainState, abstract_state, new_state
from dlrm_jax.training.step import compiled_step

NODES = (2, 4, 8)
EVERY = (0, 100)
BATCHES = (128, 2048, 16_384)
OPTIMIZERS = {'SGD': ('sgd', 0.1), 'Adagrad': ('adagrad', 0.01)}


class Mode(NamedTuple):
  """How tables are learned.

  Attributes:
    nodes: with tables of their own; of synchronous tables the devices.
    every: steps between averages; 0: never, None: tables are synchronous.
  """

  nodes: int
  every: int | None

  @property
  def name(self) -> str:
    """In words."""
    if self.every is None:
      return 'synchronous'
    if not self.every:
      return 'independent'
    return f'averaged every {self.every}'


class Learned(NamedTuple):
  """What one run learned.

  Attributes:
    nodes: metrics of each node; of synchronous tables there is one.
    mean: metrics of the mean of tables.
    ensemble: metrics of the mean probability of all nodes.
    apart: divergence of each table; empty where there is one node.
  """

  nodes: list[dict[str, float]]
  mean: dict[str, float]
  ensemble: dict[str, float]
  apart: dict[str, float]


def _config(mode: Mode, optimizer: str) -> ConfigDict:
  config = criteo_kaggle.get_config()
  for options in (config.optimizer, config.table_optimizer):
    options.name, options.learning_rate = OPTIMIZERS[optimizer]
  config.tables.placement = 'row_wise' if mode.every is None else 'independent'
  config.tables.shards = mode.nodes
  config.tables.average_every = mode.every or 0
  return config


class _Trainer:
  """Trains one mode with several seeds; compiles once."""

  def __init__(self, config: ConfigDict, data: Data) -> None:
    self._config, self._data = config, data
    self._task = build_task(config, data.schema, data.scale)
    self._update = compiled_step(self._task)
    self._average = compiled_average(self._task, keep=False)
    self._evaluate = Evaluator(self._task)

  def __call__(self, seed: int) -> Learned:
    """One epoch of the split train; what it learned for the split test."""
    self._config.seed = seed
    run = build_run(self._config, self._data, Path())
    state = new_state(self._task, jax.random.key(seed))
    batches = training_batches(self._data.source('train'), run.reading)
    for step, batch in enumerate(itertools.islice(batches, run.steps), 1):
      state, _ = self._update(state, sharding.send(batch))
      if run.average_every and step % run.average_every == 0:
        state = self._average(state)
    return self._learned(run, state)

  def _learned(self, run: Run, state: TrainState) -> Learned:
    batches = evaluation_batches(
      self._data.source('test'), run.eval_batch_size, 0, 1
    )
    if not node_count(self._task):
      score = flat_scores(by_head(self._evaluate(state, batches)))
      return Learned([score], score, score, {})
    scored = self._evaluate.nodes(state, batches)
    scores = {name: flat_scores(by_head(*x)) for name, x in scored.items()}
    return Learned(
      mean=scores.pop('mean of tables'),
      ensemble=scores.pop('ensemble'),
      nodes=list(scores.values()),
      apart=divergence(self._task, state),
    )


def _average_bytes(task: Task, devices: int) -> int:
  """Bytes that a device sends for one average of all tables."""
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    average = jax.jit(compiled_average(task, keep=True))
    compiled = average.lower(abstract_state(task)).compile()
    return exchanged(collectives(compiled.as_text() or ''))


@functools.cache
def sent(mode: Mode, batch: int, data: str = '') -> float:
  """Bytes that a device sends in a step, all of its optimizers alike.

  Args:
    mode: whose nodes are as many devices.
    batch: examples of a step, of all devices together.
    data: a prepared set; else the full log's sizes.
  """
  config = _config(mode, 'SGD')
  config.data.dir, config.train.batch_size = data, batch
  task = build_task(config, *open_schema(config))
  step = compile_step(task, batch, jax.devices()[: mode.nodes])
  total = float(exchanged(step.collectives))
  return total + (
    _average_bytes(task, mode.nodes) / mode.every if mode.every else 0.0
  )


class Result(NamedTuple):
  """A mode with an optimizer.

  Attributes:
    optimizer: its name.
    mode: of the tables.
    seeds: what each learned.
    synchronous: what each learned with synchronous tables.
    sent: bytes of a device in a step.
  """

  optimizer: str
  mode: Mode
  seeds: list[Learned]
  synchronous: list[Learned]
  sent: float


def _results(data: Data, folder: str, seeds: int) -> Iterator[Result]:
  for optimizer in OPTIMIZERS:
    # One device learns what any number of them does.
    trainer = _Trainer(_config(Mode(max(NODES), None), optimizer), data)
    same = [trainer(seed) for seed in range(seeds)]
    batch = criteo_kaggle.get_config().train.batch_size
    for nodes in NODES:
      mode = Mode(nodes, None)
      yield Result(optimizer, mode, same, same, sent(mode, batch, folder))
    for every, nodes in itertools.product(EVERY, NODES):
      mode = Mode(nodes, every)
      trainer = _Trainer(_config(mode, optimizer), data)
      found = [trainer(seed) for seed in range(seeds)]
      yield Result(optimizer, mode, found, same, sent(mode, batch, folder))


def _deviation(values: Sequence[float]) -> float:
  return statistics.stdev(values) if len(values) > 1 else 0.0


def _node_values(seeds: Sequence[Learned], metric: str) -> list[float]:
  """Mean over the nodes, of each seed."""
  return [statistics.fmean(n[metric] for n in one.nodes) for one in seeds]


def _behind(result: Result) -> list[float]:
  """AUC of a node less that of synchronous tables, seed by seed."""
  ours = _node_values(result.seeds, 'auc')
  theirs = _node_values(result.synchronous, 'auc')
  return [a - b for a, b in zip(ours, theirs, strict=True)]


def _shown(values: Sequence[float]) -> str:
  return f'{statistics.fmean(values):.4f} ± {_deviation(values):.4f}'


def _row(result: Result) -> dict[str, Any]:
  seeds, shared = result.seeds, result.mode.every is None
  row: dict[str, Any] = {
    'optimizer': result.optimizer,
    'tables': result.mode.name,
    'nodes': result.mode.nodes,
    'sent in a step': f'{result.sent / 1e6:.2f} MB',
  }
  for metric, name in (('auc', 'AUC'), ('log_loss', 'log-loss')):
    row[f'{name}, a node'] = _shown(_node_values(seeds, metric))
    for part in ('mean', 'ensemble'):
      values = [getattr(one, part)[metric] for one in seeds]
      row[f'{name}, {part}'] = '' if shared else _shown(values)
  if shared:
    return row | {'AUC, node - synchronous': '', 'divergence': ''}
  apart = [
    statistics.fmean(of(one.apart.values()) for one in seeds)
    for of in (statistics.median, max)
  ]
  behind = _behind(result)
  difference = f'{statistics.fmean(behind):+.4f} ± {_deviation(behind):.4f}'
  row['AUC, node - synchronous'] = difference
  row['divergence'] = f'median {apart[0]:.3f}, largest {apart[1]:.3f}'
  return row


def _bytes_row(batch: int) -> dict[str, Any]:
  nodes = max(NODES)
  modes = [Mode(nodes, None), *(Mode(nodes, every) for every in EVERY)]
  row: dict[str, Any] = {'batch': f'{batch:,}'}
  return row | {m.name: f'{sent(m, batch) / 1e6:.1f} MB' for m in modes}


def _draw(results: Sequence[Result], path: str) -> None:
  """AUC of a node (line) and of the ensemble (dots) by bytes sent."""
  figure = Figure(figsize=(9, 4), layout='constrained')
  for axes, optimizer in zip(
    figure.subplots(1, len(OPTIMIZERS)), OPTIMIZERS, strict=True
  ):
    mine = [r for r in results if r.optimizer == optimizer]
    for number, name in enumerate(dict.fromkeys(r.mode.name for r in mine)):
      line = [r for r in mine if r.mode.name == name]
      size = [r.sent / 1e6 for r in line]
      found = [_node_values(r.seeds, 'auc') for r in line]
      auc = [statistics.fmean(values) for values in found]
      error = [_deviation(values) for values in found]
      color = f'C{number}'
      axes.errorbar(size, auc, error, fmt='o-', color=color, label=name)
      for x, y, r in zip(size, auc, line, strict=True):
        axes.annotate(
          str(r.mode.nodes), (x, y), (4, 4), textcoords='offset points'
        )
      if line[0].mode.every is not None:
        ensemble = [
          statistics.fmean(one.ensemble['auc'] for one in r.seeds) for r in line
        ]
        axes.plot(size, ensemble, 'x:', color=color)
    axes.set(
      title=optimizer,
      xlabel='MB that a device sends in a step',
      ylabel='test AUC: a node (dots), the ensemble (crosses)',
    )
    axes.grid(alpha=0.3)
  figure.axes[-1].legend(title='tables; numbers: nodes', loc='lower left')
  figure.savefig(path)


def main() -> None:
  """Trains, compiles, prints both tables, draws."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('data', help='a prepared set, with splits train and test')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--picture', default='independent.svg')
  arguments = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(NODES))
  config = criteo_kaggle.get_config()
  config.data.dir = arguments.data
  results = []
  for result in _results(open_data(config), arguments.data, arguments.seeds):
    print(_row(result), flush=True)
    results.append(result)
  machine.show('independent', [_row(result) for result in results])
  machine.show('independent_bytes', [_bytes_row(batch) for batch in BATCHES])
  _draw(results, arguments.picture)


if __name__ == '__main__':
  main()
