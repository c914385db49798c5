"""All benchmarks that compare, one after the other: `make bench`.

python -m benchmarks [--peer_python=PYTHON] [--dlrm=PATH] [--input=train.txt]
  [--frappe=FOLDER] [--fuxictr_python=PYTHON]

Prints the table of each, the machine's ceilings last, then everything as one
JSON line, which is also written to a file; `python -m benchmarks.picture` draws
it. What is missing is said first, and left out. Each benchmark runs in a
process of its own, as `python -m benchmarks.NAME` does.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import contest, machine, peers

_WITH_PEERS = (
  *('step', 'training', 'lookup', 'update', 'inference', 'int64_products'),
  'prepare',
)
_NEED_LOG = ('training', 'prepare')
_ALL = (*_WITH_PEERS, 'family', 'startup', 'memory', 'ceilings')
_IDLE = 0.5
"""Load of a core, at most, of a machine that does nothing else."""


def flags_of(
  name: str, found: peers.Peers, arguments: argparse.Namespace
) -> list[str]:
  """Flags of one benchmark.

  Args:
    name: of its module.
    found: the peers that are there.
    arguments: what the user gave.
  """
  flags, rounds = [], arguments.rounds
  if name == 'family':
    flags.append(f'--frappe={arguments.frappe}')
    if arguments.fuxictr_python:
      flags.append(f'--fuxictr_python={arguments.fuxictr_python}')
  if name in _WITH_PEERS and found.python:
    flags.append(f'--peer_python={found.python}')
  if name in _WITH_PEERS and found.dlrm:
    flags.append(f'--dlrm={found.dlrm}')
  if name in _NEED_LOG:
    flags.append(f'--input={arguments.input}')
  if rounds is not None and name != 'memory':
    flags.append(f'--rounds={rounds}')
  return flags


class Result(NamedTuple):
  """What a benchmark found.

  Attributes:
    rows: of its table.
    busy: whether the machine did so much else that it is not to be believed.
  """

  rows: list[dict[str, Any]]
  busy: bool


def run(command: Sequence[str]) -> Result | None:
  """Runs a benchmark and prints its table; None: it failed."""
  ended = subprocess.run(command, capture_output=True, text=True, check=False)
  *table, line = ended.stdout.splitlines() or ['']
  if ended.returncode:
    print(f'{" ".join(command)} failed:', file=sys.stderr)
    print(ended.stderr[-1000:], file=sys.stderr)
    return None
  print(*table, '', sep='\n', flush=True)
  busy = [
    said for said in ended.stderr.splitlines() if said.startswith(contest.BUSY)
  ]
  for said in busy:
    peers.say(said)
  return Result(json.loads(line)['rows'], bool(busy))


def main() -> int:
  """Runs all that can be run; 1 where one failed."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser, rounds=None)
  parser.add_argument('--input', default='', help='a raw Criteo log')
  parser.add_argument('--frappe', default='', help='Frappe_x1: its folder')
  parser.add_argument(
    '--fuxictr_python', default='', help='a Python with FuxiCTR'
  )
  parser.add_argument('--output', default='runs/bench.json', help='JSON')
  arguments = parser.parse_args()
  if arguments.input and not Path(arguments.input).is_file():
    parser.error(f'--input={arguments.input}: no such file')
  load = os.getloadavg()[0]
  if load > _IDLE * (os.cpu_count() or 1):
    # It slows PyTorch's threads, which wait for each other, most.
    peers.say(f'{contest.BUSY}: load {load:.1f}; ratios will be wrong')
  found, left_out = peers.find(arguments), []
  if not arguments.input:
    left_out += _NEED_LOG
    peers.say(f'no {" and ".join(_NEED_LOG)}: give --input=train.txt')
  if not arguments.frappe:
    left_out.append('family')
    peers.say('no family: give --frappe=FOLDER, and --fuxictr_python=PYTHON')
  names = [name for name in _ALL if name not in left_out]
  seen = {}
  for name in names:
    print(f'## {name}\n', flush=True)
    flags = flags_of(name, found, arguments)
    result = run([sys.executable, '-m', f'benchmarks.{name}', *flags])
    if result is not None:
      seen[name] = result
  about = {
    **machine.describe(),
    'peers': peers.versions(found),
    'busy': [name for name, result in seen.items() if result.busy],
  }
  rows = {name: result.rows for name, result in seen.items()}
  line = json.dumps({'benchmarks': rows, 'machine': about})
  output = Path(arguments.output)
  output.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(line + '\n')
  print(line)
  return int(len(seen) < len(names))


if __name__ == '__main__':
  sys.exit(main())
