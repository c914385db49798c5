r"""The tables of results in docs/models.md, from sweeps.

  python -m dlrm_jax.sweep --config=configs/frappe.py:deepfm --seeds=3 \
    --config.data.dir=data/frappe --workdir=runs/frappe_deepfm
  python -m benchmarks.models runs/*/sweep.json

Writes a table for each config, with a row for each setting, between two lines
of the page; the rest of the page stays. Results of others are in `PUBLISHED`.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlrm_jax import files
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.sweep.grid import short_names, value_text
from dlrm_jax.sweep.spread import SeedSpread
from dlrm_jax.text import markdown_table

BEGIN = '<!-- results -->'
END = '<!-- end of results -->'


class Published(NamedTuple):
  """Results of others on a data set.

  Attributes:
    title: name of the data.
    source: whose results they are, for the head of a column.
    note: how they were measured.
    results: variant of the config -> metric -> value.
  """

  title: str
  source: str
  note: str
  results: Mapping[str, Mapping[str, float]]


_BEST_POSSIBLE = {
  'click/auc': 0.80601,
  'click/log_loss': 0.48989,
  'conversion/auc': 0.84315,
  'conversion/log_loss': 0.28022,
}
PUBLISHED = {
  'frappe': Published(
    'Frappe',
    'FuxiCTR',
    'FuxiCTR 2.3.10 on the same files with the settings of BARS, one seed. '
    'Ours lower the rate after two epochs without a gain, BARS after one.',
    {
      'dlrm': {'auc': 0.98618, 'log_loss': 0.1473},
      'deepfm': {'auc': 0.98514, 'log_loss': 0.1477},
      'dcn': {'auc': 0.98418, 'log_loss': 0.1528},
      'fm': {'auc': 0.97022, 'log_loss': 0.1956},
      'plain': {'auc': 0.97148, 'log_loss': 0.2343},
    },
  ),
  'ncf': Published(
    'MovieLens 1M as in NCF',
    'published',
    'Published: arXiv 2005.09683 and 1708.05031, on the last item of each '
    'user; ours on the item before it, which is held out for validation.',
    {
      'mf': {'hr_10': 0.729, 'ndcg_10': 0.452},
      'gmf': {'hr_10': 0.708, 'ndcg_10': 0.429},
      'neumf': {'hr_10': 0.701, 'ndcg_10': 0.424},
      'pretrained': {'hr_10': 0.726, 'ndcg_10': 0.445},
    },
  ),
  'multitask': Published(
    'Two planted tasks',
    'best possible',
    'A synthetic log: the probabilities of which clicks and conversions were '
    'drawn are known, and are scored on the same examples.',
    dict.fromkeys(('shared_bottom', 'mmoe', 'esmm'), _BEST_POSSIBLE),
  ),
  'criteo_kaggle': Published(
    'A sample of Criteo Kaggle',
    'published',
    '86,206 rows of the first six days train and the 14,367 after them '
    'validate; docs/benchmarks.md has the test rows. `best` is a DLRM, '
    '`branches` four of them.',
    {},
  ),
}
"""By name of the config's file."""


class Row(NamedTuple):
  """A setting of a sweep.

  Attributes:
    config: name of the config's file, without its ending.
    variant: variant of the config; '' for its default.
    point: the setting's numbers in sweep.json.
    seeds: number of runs that were asked for.
  """

  config: str
  variant: str
  point: Mapping[str, Any]
  seeds: int


def read_rows(path: Path) -> list[Row]:
  """Reads the settings of a sweep.json, the best first.

  Raises:
    InputError: it is no such file.
  """
  try:
    sweep = files.read_json(path)
    file, _, variant = sweep['config'].partition(':')
    name, seeds = Path(file).stem, len(sweep['seeds'])
    return [Row(name, variant, point, seeds) for point in sweep['points']]
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  except (ValueError, LookupError, TypeError, AttributeError):
    raise InputError(
      f'{path}: no file of a sweep; expected the sweep.json that `python -m '
      f'dlrm_jax.sweep` writes in its workdir'
    ) from None


def _spread(metric: Mapping[str, float | None] | None) -> str:
  if metric is None:
    return ''
  known = (math.nan if x is None else x for x in metric.values())
  return SeedSpread(*known).text(digits=5)


def _published(row: Row, metric: str) -> str:
  """What others reached with the same model, as text; '' if it is unknown."""
  if row.config not in PUBLISHED or 'model.name' in row.point['settings']:
    return ''
  known = PUBLISHED[row.config].results.get(row.variant, {})
  return str(known.get(metric, ''))


def _columns(rows: Sequence[Row]) -> Iterator[list[str]]:
  """The columns of a table, each with its head."""
  points = [row.point for row in rows]
  labels = []
  for row in rows:
    settings = row.point['settings']
    values = map(value_text, settings.values())
    pairs = zip(short_names(list(settings)), values, strict=True)
    words = (f'{name} {value}' for name, value in pairs)
    labels.append(', '.join([f'`{row.variant or row.config}`', *words]))
  yield ['settings', *labels]
  yield ['seeds', *(f'{len(r.point["runs"])} of {r.seeds}' for r in rows)]
  for metric in dict.fromkeys(k for point in points for k in point['metrics']):
    spreads = (_spread(point['metrics'].get(metric)) for point in points)
    yield [f'validation {Objective(metric).label}', *spreads]
    others = [_published(row, metric) for row in rows]
    if any(others):
      yield [PUBLISHED[rows[0].config].source, *others]
  yield ['parameters', *(f'{point["parameters"]:,}' for point in points)]
  seconds = (point['epoch_seconds'] for point in points)
  yield ['s an epoch', *('' if x is None else f'{x:.2f}' for x in seconds)]


def _section(config: str, rows: Sequence[Row]) -> Iterator[str]:
  """The lines of a config's table."""
  published = PUBLISHED.get(config)
  yield from (f'### {published.title if published else config}', '')
  if published:
    yield from (published.note, '')
  header, *cells = zip(*_columns(rows), strict=True)
  yield from markdown_table(header, cells)
  yield ''


def results(rows: Sequence[Row]) -> str:
  """The part of the page between the two lines."""
  by_config: dict[str, list[Row]] = {}
  for row in rows:
    by_config.setdefault(row.config, []).append(row)
  lines = [
    'Mean ± standard deviation over seeds, each of its best checkpoint by '
    'validation. An epoch is timed without its evaluation.',
    '',
  ]
  for config, of_config in by_config.items():
    lines += _section(config, of_config)
  return '\n'.join(lines)


def replaced(page: str, text: str, path: Path) -> str:
  """The page with a text between its two lines.

  Raises:
    InputError: the page has no such lines.
  """
  before, begin, rest = page.partition(f'{BEGIN}\n')
  _, end, after = rest.partition(END)
  if not begin or not end:
    raise InputError(f'{path}: expected the lines {BEGIN} and {END}')
  return f'{before}{begin}\n{text}\n{end}{after}'


def rewrite(path: Path, text: str) -> None:
  """Puts a text between the two lines of a page.

  Raises:
    InputError: the page cannot be read, or has no such lines.
  """
  try:
    page = path.read_text('utf-8')
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  files.write_text(path, replaced(page, text, path))


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Writes the tables."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.models',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('sweeps', nargs='+', type=Path, metavar='SWEEP.JSON')
  parser.add_argument('--page', type=Path, default=Path('docs/models.md'))
  flags = parser.parse_args(argv)
  rows = [row for path in flags.sweeps for row in read_rows(path)]
  rewrite(flags.page, results(rows))
  print(f'{len(rows)} rows written to {flags.page}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
