"""Rows that violate their format: they stop the run, or are counted."""

import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.readers.archives import DamagedError

EXAMPLES = 3
"""Number of bad rows that are shown of each kind."""


class Fault(NamedTuple):
  """A fault in a row.

  Attributes:
    kind: kind of fault; bad rows are counted by kind.
    column: name of the column; None: the row as a whole.
    value: the value that was found.
    expected: description of a good value.
  """

  kind: str
  column: str | None
  value: str
  expected: str


REMEDY = 'Correct the file, or skip bad rows with --on_bad_row=skip'


class BadRows:
  """A counter of bad rows.

  Attributes:
    skip: whether bad rows are skipped; else the first one raises `InputError`.
    counts: number of bad rows of each kind.
    examples: descriptions of the first bad rows of each kind.
    lost: descriptions of files of which the rest could not be read.
    changed: number of values that were changed to fit, by kind of change.
    labels: of each column of labels, the labels '-1' and '0', which may mean
      "no click", and the place where each occurred first.
  """

  def __init__(self, on_bad_row: str = 'stop', remedy: str = REMEDY) -> None:
    """Starts at no bad rows.

    Args:
      on_bad_row: 'stop' or 'skip'.
      remedy: what the message of a bad row advises.
    """
    if on_bad_row not in ('stop', 'skip'):
      raise InputError(f'--on_bad_row={on_bad_row}: expected stop or skip')
    self.skip = on_bad_row == 'skip'
    self._remedy = remedy
    self.counts: collections.Counter[str] = collections.Counter()
    self.examples: dict[str, list[str]] = collections.defaultdict(list)
    self.lost: list[str] = []
    self.changed: collections.Counter[str] = collections.Counter()
    self.labels: dict[str, dict[str, str]] = {}

  def add(
    self, path: str, number: int, fault: Fault, unit: str = 'line'
  ) -> None:
    """Counts a bad row.

    Args:
      path: the file.
      number: number of the line or row, from 1.
      fault: its fault.
      unit: 'line' or 'row'.

    Raises:
      InputError: bad rows are not skipped.
    """
    column = f', column {fault.column}' if fault.column else ''
    # Without the folder, because the prepared set stores the examples.
    name = Path(path).name if self.skip else path
    where = f'{name}, {unit} {number:,}{column}'
    text = f'{where}: {fault.kind}: {fault.value}; expected {fault.expected}'
    if not self.skip:
      raise InputError(f'{text}. {self._remedy}')
    self.counts[fault.kind] += 1
    if len(self.examples[fault.kind]) < EXAMPLES:
      self.examples[fault.kind].append(text)

  def lose(
    self, path: str, number: int, kind: str, damage: DamagedError
  ) -> None:
    """Notes that the rest of a file is lost.

    Args:
      path: the file.
      number: number of the first lost line.
      kind: kind of the packed file.
      damage: the damage.

    Raises:
      InputError: bad rows are not skipped.
    """
    if not self.skip:
      lines = 'all lines' if damage.anywhere else 'only the lines'
      wrong = ', some of which may be wrong' if damage.anywhere else ''
      raise InputError(
        f'{path}, line {number:,}: damaged {kind}: {damage}; expected a whole '
        f'file. Copy it again, or take {lines} before{wrong}, with '
        '--on_bad_row=skip'
      )
    self.counts[f'damaged {kind}'] += 1
    wrong = (
      f' Any of the lines before it, 1 to {number - 1:,}, may be WRONG.'
      if damage.anywhere
      else ''
    )
    self.lost.append(
      f'LOST: the rest of {Path(path).name}, all that follows line '
      f'{number - 1:,} ({damage}); copy the file again.{wrong}'
    )

  def change(self, what: str, count: int) -> None:
    """Counts values that were changed to fit."""
    if count:
      self.changed[what] += count

  def meet(self, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Notes labels that may mean "no click" (see `labels`).

    Raises:
      InputError: labels of a column are both -1 and 0, so one of them means
        another thing.
    """
    for column, found in labels.items():
      known = self.labels[column] = {**found, **self.labels.get(column, {})}
      if len(known) > 1:
        raise InputError(
          f'{known["-1"]}: a label is -1, and in {known["0"]} one is 0; '
          'expected 0 and 1, or -1 and 1. If -1 means no click, set '
          "config.data.raw.label to 'COLUMN > 0' (LIBSVM: write 0 for -1); if "
          'not, leave these rows out: config.data.raw.missing = [-1] and '
          '--on_bad_row=skip'
        )

  def to_json(self) -> dict[str, Any]:
    """The counter as a JSON value."""
    return {
      'counts': dict(self.counts),
      'examples': dict(self.examples),
      'lost': self.lost,
      'changed': dict(self.changed),
      'labels': self.labels,
    }

  def merge(self, other: Mapping[str, Any]) -> None:
    """Adds the counter of later rows, as `to_json` gives it."""
    self.counts.update(other['counts'])
    # Earlier versions did not write these fields.
    self.meet(other.get('labels', {}))
    self.lost.extend(other.get('lost', ()))
    self.changed.update(other.get('changed', {}))
    for kind, examples in other['examples'].items():
      kept = self.examples[kind]
      kept.extend(examples[: EXAMPLES - len(kept)])

  def report(self) -> Iterator[str]:
    """Lines to show: the number of each kind, and the first examples."""
    yield from self.lost
    for what, count in self.changed.most_common():
      yield f'{count:,} x {what}'
    for kind, count in self.counts.most_common():
      if kind not in self.examples:  # Lost files are described above.
        continue
      yield f'skipped {count:,} x {kind}; first:'
      yield from (f'  {example}' for example in self.examples[kind])


def shorten(value: object, limit: int = 60) -> str:
  """A value as a message shows it."""
  value = value.to_list() if isinstance(value, pl.Series) else value
  shown = 'nothing' if value is None else repr(value)
  return shown if len(shown) <= limit else f'{shown[:limit]}...'
