"""Latency of scoring a batch, beside that of the peers.

python -m benchmarks.inference [--peer_python=PYTHON] [--dlrm=PATH]

The Kaggle shape; a call takes NumPy arrays and gives NumPy probabilities. Each
contender runs in a process of its own, in turn; of many calls, the median and
the 99th percentile, of those the medians over rounds. With tables and layers of
int8, ours stands beside itself in float32 and torchrec in int8.
"""

import argparse
import sys
from typing import Any

from benchmarks import machine, peers
from benchmarks.contest import medians
from benchmarks.latency import TAIL

CALLS = {1: 1000, 64: 500, 1024: 100}
_INT8 = 'int8'


def compare(
  found: peers.Peers, rounds: int, batch: int, calls: int
) -> list[dict[str, Any]]:
  """Rows of one size of batch.

  Args:
    found: the peers.
    rounds: measurements of each.
    batch: B.
    calls: in a measurement.
  """
  ours = [sys.executable, '-m', 'benchmarks.our_inference']
  commands = {peers.OURS: ours, **found.commands('peer_inference')}
  flags = [f'--batch={batch}', f'--calls={calls}']
  seen = medians({k: [*c, *flags] for k, c in commands.items()}, rounds)
  return [
    peers.row(
      f'inference, batch {batch}, {quantile}',
      'ms',
      {name: of[quantile] for name, of in seen.items()},
    )
    for quantile in ('p50', TAIL)
  ]


def compare_int8(
  found: peers.Peers, rounds: int, batch: int, calls: int
) -> dict[str, Any]:
  """The row of int8 of one size of batch; arguments as those of `compare`."""
  ours = [sys.executable, '-m', 'benchmarks.our_inference']
  kind = f'--kind={_INT8}'
  commands = {peers.OURS: [*ours, kind], peers.FLOAT32: ours}
  if found.torchrec:
    peer = [found.python, '-m', 'benchmarks.peer_inference', kind]
    commands[peers.TORCHREC] = peer
  flags = [f'--batch={batch}', f'--calls={calls}']
  seen = medians({k: [*c, *flags] for k, c in commands.items()}, rounds)
  values = {name: of['p50'] for name, of in seen.items()}
  return peers.row(f'inference in {_INT8}, batch {batch}, p50', 'ms', values)


def main() -> None:
  """Measures every size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser)
  arguments = parser.parse_args()
  found, rows = peers.find(arguments), []
  for batch, calls in CALLS.items():
    rows += compare(found, arguments.rounds, batch, calls)
  for batch, calls in CALLS.items():
    rows.append(compare_int8(found, arguments.rounds, batch, calls))
  machine.show('inference', rows)


if __name__ == '__main__':
  main()
