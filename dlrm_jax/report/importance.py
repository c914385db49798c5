"""The importance of features: its file in the workdir, its tables and charts.

`python -m dlrm_jax.importance` measures it (`importance/permuted.py`). It is of
one checkpoint; a report that is written later says of which.
"""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dlrm_jax import files
from dlrm_jax.errors import InputError
from dlrm_jax.report import charts, page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

FILE = 'importance.json'
"""Name of the file in the workdir."""

HEADING = 'Importance of features'
"""Heading of the section of a report."""

_MOST_BARS = 40
_MOST_ROWS = 100
_MOST_LETTERS = 28

_BASE = ('auc', 'auc_std_error', 'log_loss', 'log_loss_std_error')


class FeatureLoss(NamedTuple):
  """What a label loses where a feature is permuted over the examples.

  The errors are those of `metrics.paired.RepeatedChange`.

  Attributes:
    feature: name of the feature.
    log_loss_increase: increase of the log-loss, mean over repeats.
    log_loss_increase_std_error: its standard error over examples and repeats.
    log_loss_increase_repeats_std_error: that over the repeats alone.
    auc_decrease: decrease of the AUC, mean over repeats.
    auc_decrease_std_error: its standard error over examples and repeats.
    auc_decrease_repeats_std_error: that over the repeats alone.
    constant: whether all examples have the same feature; nothing is lost then.
  """

  feature: str
  log_loss_increase: float
  log_loss_increase_std_error: float
  log_loss_increase_repeats_std_error: float
  auc_decrease: float
  auc_decrease_std_error: float
  auc_decrease_repeats_std_error: float
  constant: bool = False

  @property
  def changes(self) -> tuple[tuple[float, float], tuple[float, float]]:
    """Increase of the log-loss, decrease of the AUC, each with its error."""
    return (
      (self.log_loss_increase, self.log_loss_increase_std_error),
      (self.auc_decrease, self.auc_decrease_std_error),
    )

  @property
  def note(self) -> str:
    """What is to be said of a feature without a clear importance."""
    if self.constant:
      return 'the same in all examples'
    increase = self.log_loss_increase
    if abs(increase) <= 2 * self.log_loss_increase_std_error:
      return 'not told from 0'
    return 'better permuted' if increase < 0 else ''


class LabelLosses(NamedTuple):
  """What a label loses by each feature.

  Attributes:
    metrics: AUC and log-loss without permutation, and their standard errors,
      by the names of `binary.summarize`.
    features: the features, by falling increase of the log-loss.
  """

  metrics: Mapping[str, float]
  features: tuple[FeatureLoss, ...]

  @classmethod
  def of(
    cls, metrics: Mapping[str, float], features: Sequence[FeatureLoss]
  ) -> Self:
    """Sorts the features; those without a log-loss keep their order."""

    def order(feature: FeatureLoss) -> float:
      increase = feature.log_loss_increase
      return 0.0 if math.isnan(increase) else -increase

    kept = {name: metrics[name] for name in _BASE}
    return cls(kept, tuple(sorted(features, key=order)))


class Importance(NamedTuple):
  """Importance of all features for a checkpoint.

  Attributes:
    step: step of the checkpoint.
    data: name of the data.
    examples: number of examples that were scored.
    repeats: number of permutations of each feature.
    seed: seed of the permutations.
    labels: name of a label -> what it loses.
  """

  step: int
  data: str
  examples: int
  repeats: int
  seed: int
  labels: Mapping[str, LabelLosses]

  def to_json(self) -> dict[str, Any]:
    """The importance as JSON can hold it."""
    labels = {
      name: {
        'metrics': dict(losses.metrics),
        'features': [feature._asdict() for feature in losses.features],
      }
      for name, losses in self.labels.items()
    }
    return self._asdict() | {'labels': labels}

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> Self:
    """The inverse of `to_json`; null becomes nan.

    Raises:
      KeyError, TypeError: the value is something else.
    """

    def known(fields: Mapping[str, Any]) -> dict[str, Any]:
      return {k: math.nan if v is None else v for k, v in fields.items()}

    labels = {
      name: LabelLosses(
        known(losses['metrics']),
        tuple(FeatureLoss(**known(x)) for x in losses['features']),
      )
      for name, losses in value['labels'].items()
    }
    fields = {name: value[name] for name in cls._fields}
    return cls(**fields | {'labels': labels})

  @property
  def notes(self) -> list[str]:
    """Sentences about what the numbers mean."""
    return [
      '± one standard error over examples and permutations, by paired methods '
      '(of AUC by DeLong). A change of log-loss of at most two standard errors '
      'is not told from 0.',
      'Correlated features share their importance: where one is permuted, the '
      'others still tell what it told, so each of them may look unimportant.',
    ]


def write(folder: Path, found: Importance) -> None:
  """Writes the file in a workdir."""
  files.write_json(folder / FILE, found.to_json())


def read(folder: Path) -> Importance | None:
  """Reads the file in a workdir; None if there is none.

  Raises:
    InputError: the file is damaged.
  """
  path = folder / FILE
  try:
    return Importance.from_json(files.read_json(path))
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'{path}: damaged ({str(error)[:80]}); remove it, and measure again with '
      f'`python -m dlrm_jax.importance` if it is needed'
    ) from None


def _change(value: float, error: float) -> tuple[str, str]:
  """A change and its error as text; '' for an error that is not known."""
  shown = '' if math.isnan(error) else f'± {error:.5f}'
  return page.number_text(value, '+.5f'), shown


def table_lines(title: str, losses: LabelLosses) -> Iterator[str]:
  """What a label loses, as a table of text.

  >>> metrics = {'auc': 0.8, 'log_loss': 0.4}
  >>> features = (FeatureLoss('C1', 0.01, 0.001, 0, -0.002, math.nan, 0),)
  >>> for line in table_lines('test', LabelLosses(metrics, features)):
  ...   print(line)
  importance on test: log-loss 0.40000, AUC 0.80000
    feature    increase of log-loss     decrease of AUC
    C1           +0.01000 ± 0.00100  -0.00200
  """
  auc, log_loss = losses.metrics['auc'], losses.metrics['log_loss']
  yield (
    f'importance on {title}: log-loss {page.number_text(log_loss, ".5f")}, AUC '
    f'{page.number_text(auc, ".5f")}'
  )
  width = max(9, *(len(f.feature) for f in losses.features))
  yield f'  {"feature":<{width}}  increase of log-loss     decrease of AUC'
  for feature in losses.features:
    cells = []
    for pair in feature.changes:
      value, error = _change(*pair)
      cells.append(f'{value:>10} {error:<9}')
    row = f'  {feature.feature:<{width}}  {"".join(cells)}  {feature.note}'
    yield row.rstrip()


def section(found: Importance) -> str:
  """The section of a report, without its heading, as HTML."""
  about = (
    f'Checkpoint of step {found.step:,}, scored on {found.examples:,} examples '
    f'of {found.data}; seed {found.seed}. Each feature is permuted over the '
    f'examples.'
  )
  body = [
    f'<p class="soft">{html.escape(line)}</p>' for line in (about, *found.notes)
  ]
  for number, (label, losses) in enumerate(found.labels.items()):
    if len(found.labels) > 1:
      body.append(f'<h3>{html.escape(label)}</h3>')
    body.append(page.html_charts(_charts(f'importance{number}', losses)))
    body.append(_table(losses))
  return '\n'.join(body)


def _small(text: str) -> str:
  """A small line of a cell; none for ''."""
  return f'<small>{text}</small>' if text else ''


def _table(losses: LabelLosses) -> str:
  """What a label loses, as an HTML table."""

  def row(feature: FeatureLoss) -> str:
    cells = ''
    for pair in feature.changes:
      value, error = _change(*pair)
      cells += f'<td>{value}{_small(error)}</td>'
    return (
      f'<th>{html.escape(feature.feature)}{_small(feature.note)}</th>{cells}'
    )

  rows = [row(feature) for feature in losses.features[:_MOST_ROWS]]
  left = len(losses.features) - len(rows)
  if left:
    rows.append(f'<th>{left:,} others, see {FILE}</th><td></td><td></td>')
  base = ''.join(
    f'<td>{page.number_text(losses.metrics[name], ".5f")}</td>'
    for name in ('log_loss', 'auc')
  )
  rows.append(f'<th>Log-loss and AUC without permutation</th>{base}')
  head = ('Feature', 'Increase of log-loss', 'Decrease of AUC')
  return page.html_table(head, rows, 'sum')


def _charts(name: str, losses: LabelLosses) -> dict[str, str]:
  """Charts of the most important features, by title.

  Args:
    name: prefix of the ids in the charts.
    losses: what a label loses.
  """
  shown = losses.features[:_MOST_BARS]
  some = ''
  if len(shown) < len(losses.features):
    some = f', first {len(shown)} features'
  return {
    f'{title}{some}': _bars(f'{name}-{i}', title, shown, i)
    for i, title in enumerate(('Increase of log-loss', 'Decrease of AUC'))
    if any(not math.isnan(feature.changes[i][0]) for feature in shown)
  }


def _bars(
  name: str, title: str, features: Sequence[FeatureLoss], change: int
) -> str:
  """A chart with a bar for each feature, and its error.

  Args:
    name: prefix of the ids in the chart.
    title: what the bars show.
    features: the features, from top to bottom.
    change: which of `FeatureLoss.changes` is shown.
  """

  def draw(axes: 'Axes') -> None:
    values, errors = zip(*(f.changes[change] for f in features), strict=True)
    axes.barh(
      range(len(features)),
      values,
      xerr=[0.0 if math.isnan(error) else error for error in errors],
      color=charts.COLORS[0],
      error_kw={'ecolor': charts.INK, 'elinewidth': 0.8},
    )
    names = [_short(feature.feature) for feature in features]
    axes.set_yticks(range(len(features)), names)
    axes.set_ylim(len(features) - 0.5, -0.5)
    axes.grid(visible=False, axis='y')
    axes.locator_params(axis='x', nbins=6)

  return charts.chart(name, title, draw, height=0.6 + 0.15 * len(features))


def _short(name: str) -> str:
  """A name that leaves room for the bars."""
  whole = len(name) <= _MOST_LETTERS
  return name if whole else f'{name[: _MOST_LETTERS - 1]}…'
