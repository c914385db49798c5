"""Columns of a raw log -> typed columns of a frame, and the rows that fail.

No Python runs for a row, but for a bad one, or a bag that is written as an odd
list.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import Fault, shorten
from dlrm_jax.prepare.readers.reader import kept, numbered
from dlrm_jax.prepare.values.raw_bags import lists
from dlrm_jax.prepare.values.rules import IN, OUT, Check, Rule, list_name


def sift(
  rules: Sequence[Rule], frame: pl.DataFrame
) -> tuple[pl.DataFrame, list[tuple[int, Fault]]]:
  """Columns of a file -> a frame of the good rows, and the bad ones.

  Args:
    rules: of the frame's columns.
    frame: columns of the file under their names.

  Returns:
    The frame, whose `NUMBER` counts the rows given, and of each bad row its
    number (from 0) and its first fault.
  """
  frame = frame.rename(lambda name: IN + name)
  made = _evaluated(frame, {n: r.check for n, r in enumerate(rules)})
  for some in _again(rules, made):
    made = _mended(frame, made, some)
  marks = [str(n) for n in range(len(rules))]
  faults = []
  if not all(made[mark].all() for mark in marks):
    good = made.select(pl.all_horizontal(marks)).to_series()
    faults = _faults(rules, frame, made, good)
    made = made.filter(good)
  # No expressions: they would bring the chunks of all columns in line first.
  rows = pl.DataFrame(
    [
      (x.list.head(rule.most) if rule.most else x).alias(rule.name)
      for n, rule in enumerate(rules)
      for x in [made[f'{OUT}{n}']]
    ]
  )
  return numbered(rows, kept(rows, [row for row, _ in faults])), faults


def _again(rules: Sequence[Rule], made: pl.DataFrame) -> list[dict[int, Rule]]:
  """Rules that fail somewhere and have a full one, by the bags they split."""
  found: dict[object, dict[int, Rule]] = {}
  for n, rule in enumerate(rules):
    if rule.full and not made[str(n)].all():
      found.setdefault(rule.split[:1] or n, {})[n] = rule
  return list(found.values())


def _mended(
  frame: pl.DataFrame, made: pl.DataFrame, rules: Mapping[int, Rule]
) -> pl.DataFrame:
  """What the full rules make of the rows that fail."""
  full = {n: full for n, rule in rules.items() if (full := rule.full)}
  rows = made.select(~pl.all_horizontal(map(str, rules))).to_series()
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
  mended = _evaluated(odd, full)
  places = np.arange(frame.height)
  places[rows.to_numpy()] = frame.height + np.arange(odd.height)
  return made.with_columns(
    pl.concat([made[name], mended[name]]).gather(places)
    for name in mended.columns
  )


def _faults(
  rules: Sequence[Rule],
  frame: pl.DataFrame,
  made: pl.DataFrame,
  good: pl.Series,
) -> list[tuple[int, Fault]]:
  faults: list[tuple[int, Fault]] = []
  for row in good.not_().arg_true().to_list():
    first = next(n for n in range(len(rules)) if not made[str(n)][row])
    rule = rules[first]
    value = shorten(frame[IN + rule.column][row])
    faults.append((row, Fault(rule.kind, rule.column, value, rule.expected)))
  return faults


def _evaluated(
  frame: pl.DataFrame, checks: Mapping[int, Check]
) -> pl.DataFrame:
  """Values and marks of rules by number."""
  columns = [
    x
    for number, check in checks.items()
    for x in (
      check.value.alias(f'{OUT}{number}'),
      check.good.fill_null(False).alias(str(number)),
    )
  ]
  # Lazily: what value and mark share is computed once.
  return frame.lazy().select(columns).collect()
