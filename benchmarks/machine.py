"""What a benchmark ran on, and how it prints."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from dlrm_jax.training.report import environment


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
  """Prints rows as a Markdown table, then everything as one JSON line."""
  columns = list(rows[0])
  print('| ' + ' | '.join(columns) + ' |')
  print('|' + '---|' * len(columns))
  for row in rows:
    print('| ' + ' | '.join(str(row[c]) for c in columns) + ' |')
  line = {'benchmark': name, 'rows': rows, 'machine': describe()}
  print(json.dumps(line))
