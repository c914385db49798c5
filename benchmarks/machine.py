"""What a benchmark ran on, and how it prints."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import targets
from dlrm_jax.report.run_page import environment


def describe() -> dict[str, str]:
  """Date, commit, processor and versions."""
  commit = subprocess.run(
    ['git', 'describe', '--always', '--dirty'],
    capture_output=True,
    text=True,
    check=False,
  )
  return {
    'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    'commit': commit.stdout.strip() or 'unknown',
    'processor': f'{_processor()}, {os.cpu_count()} cores',
    **environment(),
  }


def _processor() -> str:
  try:
    with open('/proc/cpuinfo') as file:
      lines = [line for line in file if line.startswith('model name')]
    return lines[0].split(':')[1].strip()
  except (OSError, IndexError):
    return platform.processor() or platform.machine()


def show(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints rows as a Markdown table, then everything as one JSON line.

  The table also has how many times better ours is than others, and the targets.
  Columns in which no row has anything are left out of it.
  """
  judged = [{**row, **_judged(row)} for row in rows]
  seen = dict.fromkeys(column for row in judged for column in row)
  columns = [c for c in seen if any(row.get(c) is not None for row in judged)]
  print('| ' + ' | '.join(columns) + ' |')
  print('|' + '---|' * len(columns))
  for row in judged:
    print('| ' + ' | '.join(_cell(row.get(c)) for c in columns) + ' |')
  line = {'benchmark': name, 'rows': rows, 'machine': describe()}
  print(json.dumps(line), flush=True)


def _judged(row: Mapping[str, Any]) -> dict[str, str | None]:
  """Columns with the ratios of a comparison, and its targets."""
  if 'unit' not in row:
    return {}
  texts = [c.text() for c in targets.comparisons(row)]
  if targets.own_missed(row):
    texts.append(targets.MISSED)
  return {
    'times better': ', '.join(texts) or None,
    'target': targets.aimed(row) or None,
  }


def _cell(value: Any) -> str:
  """A value in three digits; nothing for None."""
  if value is None:
    return ''
  return number_text(value) if isinstance(value, float) else str(value)


def number_text(value: float) -> str:
  """A number in three digits, or all of those before the point."""
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'
