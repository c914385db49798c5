"""Compares two runs on the same rows; says whether they differ by chance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dlrm_jax.errors import InputError
from dlrm_jax.metrics import binary, paired
from dlrm_jax.run.scores import with_error

_METRICS = {
  'auc': ('AUC', 'paired DeLong', paired.auc_difference),
  'log_loss': ('log-loss', 'paired', paired.log_loss_difference),
}


class Compared(NamedTuple):
  """A run and its predictions.

  Attributes:
    workdir: workdir of the run.
    step: step of the checkpoint.
    scored: the first label, weights and logits of the rows.
    labels: names of all labels.
  """

  workdir: str
  step: int
  scored: paired.Scored
  labels: Sequence[str]

  def scores(self) -> dict[str, float]:
    """All metrics of this run."""
    return binary.summarize(binary.tally(*self.scored))


def compare(
  title: str, a: Compared, b: Compared
) -> tuple[list[str], dict[str, Any]]:
  """Differences of two runs, as lines of text and as JSON can hold them.

  Args:
    title: name of the data.
    a: the first run.
    b: the second run.

  Raises:
    InputError: the runs were not scored on the same rows, or their first
      labels differ.
  """
  if a.labels[0] != b.labels[0]:
    raise InputError(
      f'--compare={b.workdir}: its first label is {b.labels[0]}, that of '
      f'{a.workdir} is {a.labels[0]}; expected runs of one label'
    )
  paired.check_same(a.scored, b.scored)
  found = {
    metric: difference(a.scored, b.scored)
    for metric, (_, _, difference) in _METRICS.items()
  }
  scores = a.scores(), b.scores()
  lines = [
    f'A         {a.workdir}, checkpoint of step {a.step:,}',
    f'B         {b.workdir}, checkpoint of step {b.step:,}',
    f'rows      {title}, {a.scored.labels.size:,}',
    *(
      [f'label     {a.labels[0]}, the first of {", ".join(a.labels)}']
      if len(a.labels) > 1
      else []
    ),
    f'{"":<10}{"A":>20}{"B":>20}{"A less B":>22}',
  ]
  for metric, (name, method, _) in _METRICS.items():
    value, error, *_ = difference = found[metric]
    cells = [with_error(of, metric) for of in scores]
    apart = with_error({'x': value, 'x_std_error': error}, 'x')
    signed = f'+{apart}' if value > 0 else apart
    lines.append(
      f'{name:<10}{cells[0]:>20}{cells[1]:>20}{signed:>22}  '
      f'{difference.in_words}, {method}'
    )
  of_b = {'workdir': b.workdir, 'step': b.step, 'metrics': scores[1]}
  differences = {metric: found[metric]._asdict() for metric in _METRICS}
  return lines, {'metrics': scores[0], 'compare': of_b | differences}
