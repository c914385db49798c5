"""The report of a run: one HTML file that opens without a network.

Each section is a string from one function. `page` has the layout, `charts`
draws. Text from outside (names, config, notes) is escaped.
"""

import html
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dlrm_jax import files
from dlrm_jax.metrics import binary
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.report import charts, importance, page
from dlrm_jax.text import human
from dlrm_jax.training.sizes import TableSize

_METRICS = (
  ('hr_10', 'HR@10', 'lists whose positive is in the top 10', '.5f'),
  ('ndcg_10', 'NDCG@10', '1 / log2(1 + place) in the top 10, else 0', '.5f'),
  ('mrr', 'MRR', '1 / place of the positive', '.5f'),
  ('lists', 'Lists', 'a positive and its candidates each', ',.0f'),
  (
    'auc',
    'AUC',
    'chance that a click ranks above a non-click; ± one standard error '
    '(DeLong)',
    '.5f',
  ),
  (
    'auc_bin_bound',
    'Bound of binning',
    'what counting by bins may cost the AUC',
    '.1e',
  ),
  ('pr_auc', 'PR-AUC', 'average precision', '.5f'),
  ('log_loss', 'Log-loss', 'nats; less is better; ± as above', '.5f'),
  ('ne', 'Normalised entropy', 'log-loss / entropy of the base rate', '.5f'),
  ('accuracy', 'Accuracy', 'at probability 0.5', '.5f'),
  ('uauc', 'uAUC', "mean of the groups' AUCs", '.5f'),
  ('wuauc', 'wuAUC', 'the same, weighted by impressions', '.5f'),
  ('groups', 'Groups', 'with clicks and non-clicks', ',.0f'),
  ('groups_left_out', 'Groups left out', 'without', ',.0f'),
  ('calibration', 'Calibration', 'mean prediction / base rate', '.4f'),
  ('base_rate', 'Base rate', 'clicks / examples', '.5f'),
  ('mean_prediction', 'Mean prediction', 'of the click probability', '.5f'),
  ('examples', 'Examples', '', ',.0f'),
  ('clicks', 'Clicks', '', ',.0f'),
)

REPORT = 'report.html'
"""Name of the report in the workdir."""

_CONFIGURATION = 'Configuration'

_MOST_TABLES = 100

_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def environment() -> dict[str, str]:
  """Device of this process and versions of the libraries, by name."""
  devices = jax.devices()
  return {
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'backend': jax.default_backend(),
    'system': platform.platform(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in _LIBRARIES},
  }


def _settings(config: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
  """The text of each field's value, by the dotted name of the field."""
  fields = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      fields |= _settings(value, f'{prefix}{key}.')
    else:
      text = value if isinstance(value, str) else json.dumps(value, default=str)
      fields[f'{prefix}{key}'] = text
  return fields


def _cards(
  summaries: Mapping[str, Mapping[str, float]], history: charts.History
) -> str:
  """Cards of the most important numbers of the last split and of training."""
  cards = []
  for split, summary in list(summaries.items())[-1:]:
    for key, label, _, form in _METRICS:
      if key in ('auc', 'log_loss', 'ne', 'calibration'):
        error = summary.get(f'{key}_std_error', 0)
        note = f'± {error:.5f}, {split}' if error > 0 else split
        cards.append((label, page.number_text(summary[key], form), note))
  speed = charts.series(history, 'examples_per_second').values
  if speed.size:
    cards.append(('Examples/s', f'{np.median(speed):,.0f}', 'median, training'))
  if history:
    steps = max(row['step'] for row in history)
    cards.append(('Steps', f'{steps:,}', 'training'))
  return page.html_cards(cards)


def _results(
  summaries: Mapping[str, Mapping[str, float]],
  references: Mapping[str, Mapping[str, float]],
) -> str:
  """A table of all metrics, with a column for each split and reference."""
  columns = {**summaries, **references}

  def row(key: str, label: str, note: str, form: str) -> str:
    cells = []
    for column in columns.values():
      text = page.number_text(column.get(key), form)
      error = column.get(f'{key}_std_error', 0)
      if error > 0:
        text += f'<small>± {error:.5f}</small>'
      cells.append(f'<td>{text}</td>')
    return f'<th>{label}<small>{note}</small></th>{"".join(cells)}'

  head = ['', *(html.escape(name) for name in columns)]
  known = {key for column in columns.values() for key in column}
  return page.html_table(head, (row(*m) for m in _METRICS if m[0] in known))


def _tables(tables: Sequence[TableSize]) -> str:
  """A table of the embedding tables, largest first, and of their totals."""
  tables = sorted(tables, key=lambda t: -t.bytes)
  largest = max((t.bytes for t in tables), default=0)

  def row(t: TableSize) -> str:
    features = html.escape(', '.join(t.features))
    share = 100 * t.bytes / max(largest, 1)
    return (
      f'<th>{html.escape(t.name)}</th><td class="features">{features}</td>'
      f'<td>{t.rows:,}</td><td>{t.dim:,}</td><td>{human(t.bytes)}</td>'
      f'<td class="bar"><i style="width:{share:.2f}%"></i></td>'
    )

  rows = [row(t) for t in tables[:_MOST_TABLES]]
  if len(tables) > _MOST_TABLES:
    left = len(tables) - _MOST_TABLES
    rows.append(f'<th>{left:,} smaller ones</th>' + '<td></td>' * 5)
  height = sum(t.rows for t in tables)
  size = human(sum(t.bytes for t in tables))
  rows.append(
    f'<th>{len(tables):,} in all</th><td></td>'
    f'<td>{height:,}</td><td></td><td>{size}</td><td></td>'
  )
  head = ('Table', 'Features', 'Rows', 'Width', 'Size', '')
  return page.html_table(head, rows, 'sum')


def write_report(
  path: str | os.PathLike[str],
  *,
  title: str,
  results: Mapping[str, binary.Tally],
  history: charts.History,
  tables: Sequence[TableSize],
  config: Mapping[str, Any],
  environment: Mapping[str, str],
  objective: Objective,
  references: Mapping[str, Mapping[str, float]] | None = None,
  ranked: Mapping[str, Mapping[str, float]] | None = None,
  notes: Sequence[str] = (),
  importances: importance.Importance | None = None,
) -> None:
  """Writes the report; equal arguments give an equal file.

  Args:
    path: file to write, 'report.html'.
    title: the heading.
    results: tallies of the finished model by split; the numbers of the last
      split stand on top.
    history: logged lines, in order: 'loss' and 'examples_per_second', or
      'SPLIT/auc' and 'SPLIT/log_loss', each with its 'step'.
    tables: the embedding tables.
    config: all fields of the run's config, nested.
    environment: result of `environment()`.
    objective: the metric that chose the checkpoint; it is drawn as well.
    references: metrics to compare with, by name: {'Bayes': {'auc': 0.81}}.
    ranked: metrics of lists to rank, of splits that have any.
    notes: sentences under the heading.
    importances: importance of the features, if it was measured.
  """
  references, ranked = references or {}, ranked or {}
  summaries = {
    name: {**ranked.get(name, {}), **binary.summarize(t)}
    for name, t in results.items()
  }
  drawn = charts.training(history, references, objective)
  drawn |= charts.quality(results)
  sections = {
    'Results': _results(summaries, references) if summaries else '',
    'Curves': page.html_charts(drawn) if drawn else '',
    'Embedding tables': _tables(tables) if tables else '',
    importance.HEADING: importance.section(importances) if importances else '',
    _CONFIGURATION: page.html_pairs(_settings(config)),
    'Environment': page.html_pairs(environment),
  }
  body = [f'<p class="soft">{html.escape(note)}</p>' for note in notes]
  body.append(_cards(summaries, history))
  body += page.html_sections(sections)
  files.write_text(pathlib.Path(path), page.html_page(title, body))


def add_importance(
  path: str | os.PathLike[str], found: importance.Importance
) -> None:
  """Writes the importance of features into a report that is there.

  The file is the one that `write_report` writes with this importance.
  """
  file = pathlib.Path(path)
  text = page.with_section(
    file.read_text('utf-8'),
    importance.HEADING,
    importance.section(found),
    before=_CONFIGURATION,
  )
  files.write_text(file, text)
