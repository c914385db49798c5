"""What each choice of bits costs on the same examples: a label of a model."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax import files
from dlrm_jax.batch import Inputs
from dlrm_jax.data.schema import Block
from dlrm_jax.embedding.collection import Tables
from dlrm_jax.metrics import binary, paired
from dlrm_jax.quantize.model import Model
from dlrm_jax.quantize.timing import medians
from dlrm_jax.report.figures import load_matplotlib
from dlrm_jax.scoring.engine import engine_of
from dlrm_jax.scoring.scorer import Score
from dlrm_jax.text import human, markdown_table

SIZES = 1, 64, 1024
"""Examples of the batches whose latency is measured."""

_CALLS, _SECONDS = 200, 2.0
_BATCHES = 16  # that differ


class Label(NamedTuple):
  """What a model costs and how good it is.

  Attributes:
    tables: how its tables are kept.
    layers: the dtype of its products.
    bytes: of the rows of its tables.
    layer_bytes: of its layers.
    metrics: of its predictions.
    auc: its AUC less that of the first model.
    log_loss: the same of the log-loss.
    latency: median milliseconds of a call, by size of batch; only models of
      equal tables were timed side by side.
    engine: what multiplies its int8 layers; '' where it has none.
  """

  tables: str
  layers: str
  bytes: int
  layer_bytes: int
  metrics: Mapping[str, float]
  auc: paired.Difference
  log_loss: paired.Difference
  latency: Mapping[int, float]
  engine: str


def latencies(
  scores: Mapping[str, Score], examples: Block
) -> dict[str, dict[int, float]]:
  """Median milliseconds of calls that score examples, by size of batch.

  Args:
    scores: functions to compare, which take turns, by name.
    examples: of which each call scores the next.
  """
  found: dict[str, dict[int, float]] = {name: {} for name in scores}
  for size in SIZES:
    calls = {
      name: partial(_call, score, itertools.cycle(_batches(examples, size)))
      for name, score in scores.items()
    }
    for name, seconds in medians(calls, _SECONDS * len(calls), _CALLS).items():
      found[name][size] = 1e3 * seconds
  return found


def _call(score: Score, batches: Iterator[Inputs]) -> np.ndarray:
  return np.asarray(score(next(batches)))


def _batches(examples: Block, size: int) -> Iterator[Inputs]:
  """Examples in batches of a size, as often as they are there."""
  weights, count = examples.id_weights, len(examples.labels)
  for start in range(0, min(count, _BATCHES * size), size):
    rows = np.arange(start, start + size) % count
    yield Inputs(
      examples.dense[rows],
      examples.ids[rows],
      None if weights is None else weights[rows],
    )


def labels_of(
  models: Mapping[tuple[str, str], Callable[[], Model]],
  score: Callable[[Model], paired.Scored],
  examples: Block,
  report: Callable[[], object],
) -> list[Label]:
  """Measures models: those of equal tables take turns, and share them.

  Args:
    models: functions that make them, by how tables and layers are kept; all
      others are compared with the first.
    score: gives the predictions of a model.
    examples: of which some are scored for the latency.
    report: called after each model.
  """
  found: dict[tuple[str, str], Label] = {}
  first: paired.Scored | None = None
  for tables in dict.fromkeys(tables for tables, _ in models):
    scores: dict[str, Score] = {}
    shared: Tables | None = None
    for (kept, layers), make in models.items():
      if kept != tables:
        continue
      model = make()
      scored, packed = score(model), model.scored
      first = first or scored
      shared = shared or model.state.tables
      engine = engine_of(packed.network, packed.layers, shared)
      scores[layers] = engine.score
      found[tables, layers] = Label(
        tables,
        layers,
        model.table_bytes,
        packed.bytes,
        binary.summarize(binary.tally(*scored)),
        paired.auc_difference(scored, first),
        paired.log_loss_difference(scored, first),
        {},
        engine.words,
      )
      report()
    for layers, latency in latencies(scores, examples).items():
      label = found[tables, layers]
      found[tables, layers] = label._replace(latency=latency)
  return [found[key] for key in models]


def _change(difference: paired.Difference) -> str:
  if difference.value == 0:
    return '0'
  return f'{difference.value:+.5f} ± {difference.std_error:.5f}'


def lines_of(labels: Sequence[Label]) -> list[str]:
  """The labels as a table in Markdown."""
  header = [
    *('tables', 'layers', 'size', 'size of layers'),
    *('AUC', 'change', 'log-loss', 'change', 'NE'),
    *(f'ms, batch {size:,}' for size in SIZES),
  ]
  cells = [
    [
      x.tables,
      x.layers,
      human(x.bytes),
      human(x.layer_bytes),
      f'{x.metrics["auc"]:.5f}',
      _change(x.auc),
      f'{x.metrics["log_loss"]:.5f}',
      _change(x.log_loss),
      f'{x.metrics["ne"]:.5f}',
      *(f'{x.latency[size]:.3g}' for size in SIZES),
    ]
    for x in labels
  ]
  return list(markdown_table(header, cells))


def as_json(labels: Sequence[Label]) -> list[dict[str, Any]]:
  """The labels as JSON can hold them."""
  return [
    {
      'tables': x.tables,
      'layers': x.layers,
      'bytes': x.bytes,
      'layer_bytes': x.layer_bytes,
      'metrics': dict(x.metrics),
      'auc_change': x.auc._asdict(),
      'log_loss_change': x.log_loss._asdict(),
      'latency_ms': {str(size): ms for size, ms in x.latency.items()},
      'engine': x.engine,
    }
    for x in labels
  ]


def draw(labels: Sequence[Label], path: Path) -> None:
  """Draws the change of the AUC by tables and layers, with errors, as SVG."""
  mpl = load_matplotlib()
  figure = mpl.figure.Figure(figsize=(7.5, 4.2), layout='constrained')
  axes = figure.add_subplot()
  sizes = {x.tables: x.bytes / labels[0].bytes for x in labels}
  order = sorted(sizes, key=lambda tables: -sizes[tables])
  kinds = list(dict.fromkeys(x.layers for x in labels))
  for number, layers in enumerate(kinds):
    of_one = [x for x in labels if x.layers == layers]
    aside = 0.7 * ((number + 0.5) / len(kinds) - 0.5)
    axes.errorbar(
      [order.index(x.tables) + aside for x in of_one],
      [x.auc.value for x in of_one],
      [0 if x.auc.value == 0 else 2 * x.auc.std_error for x in of_one],
      fmt='o',
      label=f'layers {layers}',
      markersize=4,
      elinewidth=1,
      alpha=0.8,
    )
  words = [f'{x.replace(", ", chr(10))}\n{sizes[x]:.2f}' for x in order]
  axes.set_xticks(range(len(order)), words, fontsize=8)
  axes.axhline(0, linewidth=0.8, alpha=0.5, color='grey')
  axes.set(xlabel='tables, and their size of that in float32')
  axes.set(ylabel='change of AUC, two standard errors')
  figure.legend(loc='outside lower center', ncols=3, fontsize=8)
  with files.replacing(path) as work, mpl.rc_context({'svg.hashsalt': 'x'}):
    figure.savefig(work, format='svg', metadata={'Date': None})
