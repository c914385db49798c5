"""Applies rules: columns of a raw log -> a frame of good rows, and bad rows.

Python code runs only for bad rows, and for bags that are spelled as unusual
lists; everything else is done by Polars.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import Fault, shorten
from dlrm_jax.prepare.readers.reader import BAD, kept, numbered
from dlrm_jax.prepare.values.raw_bags import lists
from dlrm_jax.prepare.values.rules import (
  IN,
  OUT,
  CheckedColumn,
  Rule,
  list_name,
)


def apply_rules(
  rules: Sequence[Rule], frame: pl.DataFrame, *, all_rows: bool = False
) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
  """Columns of a file -> a frame of the good rows, and the bad rows.

  Args:
    rules: one rule for each column of the result.
    frame: columns of the file.
    all_rows: whether bad rows stay, marked in a column `BAD`.

  Returns:
    The good rows, whose column `NUMBER` counts the rows of `frame` from 0; and
    for each bad row its number and its first fault.
  """
  frame = frame.rename(lambda name: IN + name)
  checked = _evaluated(frame, {n: r.check for n, r in enumerate(rules)})
  for failed in _failed(rules, checked):
    checked = _reparsed(frame, checked, failed)
  marks = [str(n) for n in range(len(rules))]
  faults, good = [], pl.repeat(True, frame.height, eager=True)
  if not all(checked[mark].all() for mark in marks):
    good = checked.select(pl.all_horizontal(marks)).to_series()
    faults = _faults(rules, frame, checked, good)
    checked = checked if all_rows else checked.filter(good)
  # Not as expressions: these would first align the chunks of all columns.
  rows = pl.DataFrame(
    [
      (x.list.head(rule.most) if rule.most else x).alias(rule.name)
      for n, rule in enumerate(rules)
      for x in [checked[f'{OUT}{n}']]
    ]
  )
  if all_rows:
    rows = rows.with_columns((~good).alias(BAD))
    return numbered(rows, kept(rows, ())), faults
  return numbered(rows, kept(rows, [row for row, _ in faults])), faults


def _failed(
  rules: Sequence[Rule], checked: pl.DataFrame
) -> list[dict[int, Rule]]:
  """Rules whose quick parser found bad rows; those of one bag together."""
  groups: dict[object, dict[int, Rule]] = {}
  for n, rule in enumerate(rules):
    if rule.full and not checked[str(n)].all():
      groups.setdefault(rule.split[:1] or n, {})[n] = rule
  return list(groups.values())


def _reparsed(
  frame: pl.DataFrame, checked: pl.DataFrame, rules: Mapping[int, Rule]
) -> pl.DataFrame:
  """Parses the bad rows of some rules again, by their slow parsers."""
  full = {n: full for n, rule in rules.items() if (full := rule.full)}
  rows = checked.select(~pl.all_horizontal(map(str, rules))).to_series()
  if any(rule.together for rule in rules.values()):
    rows = pl.repeat(True, frame.height, eager=True)
  split = {x for rule in rules.values() for x in rule.split}
  names = {IN + column for column, _ in split}
  names.update(n for c in full.values() for x in c for n in x.meta.root_names())
  odd = frame.select(n for n in frame.columns if n in names).filter(rows)
  odd = odd.with_columns(
    lists(odd[IN + column], mark).alias(list_name(column, mark))
    for column, mark in split
  )
  again = _evaluated(odd, full)
  places = np.arange(frame.height)
  places[rows.to_numpy()] = frame.height + np.arange(odd.height)
  return checked.with_columns(
    pl.concat([checked[name], again[name]]).gather(places)
    for name in again.columns
  )


def _faults(
  rules: Sequence[Rule],
  frame: pl.DataFrame,
  checked: pl.DataFrame,
  good: pl.Series,
) -> list[tuple[int, Fault]]:
  faults: list[tuple[int, Fault]] = []
  for row in good.not_().arg_true().to_list():
    first = next(n for n in range(len(rules)) if not checked[str(n)][row])
    rule = rules[first]
    value = shorten(frame[IN + rule.column][row])
    faults.append((row, Fault(rule.kind, rule.column, value, rule.expected)))
  return faults


def _evaluated(
  frame: pl.DataFrame, checks: Mapping[int, CheckedColumn]
) -> pl.DataFrame:
  """Column and mask of each rule, named by the rule's number."""
  columns = [
    x
    for number, check in checks.items()
    for x in (
      check.value.alias(f'{OUT}{number}'),
      check.good.fill_null(False).alias(str(number)),
    )
  ]
  # Lazily, so that what column and mask share is computed once.
  return frame.lazy().select(columns).collect()
