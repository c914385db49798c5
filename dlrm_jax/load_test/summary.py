"""What a test found, in the columns of perf_analyzer."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.load_test.drive import Outcome
from dlrm_jax.queries.tail import percentile
from dlrm_jax.text import markdown_table

_STAGES = {
  'server queue': 'queue',
  'server compute input': 'compute_input',
  'server compute infer': 'compute_infer',
  'server compute output': 'compute_output',
}
"""Columns, and the field of the server's statistics."""

_NETWORK = 'network+server send/recv'
_TIMES = ('client send', _NETWORK, *_STAGES, 'client recv')
_PERCENTS = 50, 90, 95, 99
COLUMNS = (*_TIMES, *(f'p{percent}' for percent in _PERCENTS))
"""Names of the columns of times, which are means and percentiles."""


class Row(NamedTuple):
  """A test.

  Attributes:
    load: what was asked for, such as 'concurrency 4'.
    seconds: duration.
    requests: number of answered requests.
    rows: number of their rows.
    refused: number of refusals.
    failed: requests without an answer, by what was said.
    wrong: answers that cannot be right, by what is wrong.
    times: seconds by the names of `COLUMNS`; None: it is not known.
  """

  load: str
  seconds: float
  requests: int
  rows: int
  refused: int
  failed: Mapping[str, int]
  wrong: Mapping[str, int]
  times: Mapping[str, float | None]

  @property
  def throughput(self) -> float:
    """Rows a second, which perf_analyzer calls inferences."""
    return self.rows / self.seconds

  @property
  def faults(self) -> int:
    """Number of requests that failed other than by refusal."""
    return sum(self.failed.values()) + sum(self.wrong.values())


def _totals(found: Mapping[str, Any] | None) -> dict[str, tuple[int, int]]:
  """Count and nanoseconds of each stage, of all versions of a model."""
  totals: dict[str, tuple[int, int]] = {}
  for version in (found or {}).get('model_stats', []):
    for name, stage in version.get('inference_stats', {}).items():
      count, ns = totals.get(name, (0, 0))
      more = int(stage.get('count', 0)), int(stage.get('ns', 0))
      totals[name] = count + more[0], ns + more[1]
  return totals


def _of_server(
  before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> dict[str, float | None]:
  """Mean seconds of the server's stages between two looks."""
  old, new = _totals(before), _totals(after)
  found: dict[str, float | None] = {}
  for column, name in _STAGES.items():
    count, ns = np.subtract(new.get(name, (0, 0)), old.get(name, (0, 0)))
    found[column] = float(ns / count / 1e9) if count > 0 else None
  return found


def row_of(
  load: str,
  outcome: Outcome,
  before: Mapping[str, Any] | None,
  after: Mapping[str, Any] | None,
) -> Row:
  """Sums up a test.

  Args:
    load: its name.
    outcome: what became of its requests.
    before: statistics of the server at its start; None: it has none.
    after: the same at its end.
  """
  samples = outcome.samples
  times: dict[str, float | None] = dict.fromkeys(COLUMNS)
  if samples:
    server = _of_server(before, after)
    spent = [seconds for seconds in server.values() if seconds is not None]
    wait = statistics.fmean(sample.wait for sample in samples)
    times |= {
      'client send': statistics.fmean(sample.send for sample in samples),
      _NETWORK: max(wait - sum(spent), 0.0),
      **server,
      'client recv': statistics.fmean(sample.receive for sample in samples),
    }
    latencies = np.array([sample.latency for sample in samples])
    times |= {f'p{x}': percentile(latencies, x) for x in _PERCENTS}
  return Row(
    load,
    outcome.seconds,
    len(samples),
    sum(sample.rows for sample in samples),
    outcome.refused,
    outcome.failed,
    outcome.wrong,
    times,
  )


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
  """The table, in microseconds as perf_analyzer has them, and what failed."""
  header = ['load', 'inferences/s', *COLUMNS, 'requests', 'refused', 'failed']
  cells = [
    [
      row.load,
      f'{row.throughput:.1f}',
      *('' if x is None else f'{1e6 * x:.0f}' for x in row.times.values()),
      f'{row.requests:,}',
      f'{row.refused:,}',
      f'{row.faults:,}',
    ]
    for row in rows
  ]
  yield from markdown_table(header, cells)
  yield 'times are microseconds'
  for row in rows:
    for kind, found in (('failed', row.failed), ('wrong', row.wrong)):
      for message, count in found.items():
        yield f'{row.load}: {count:,} {kind}: {message}'


def as_json(row: Row) -> dict[str, Any]:
  """A test as JSON can hold it; seconds."""
  return {
    **row._asdict(),
    'throughput': row.throughput,
    'failed': dict(row.failed),
    'wrong': dict(row.wrong),
    'times': dict(row.times),
  }
