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

CALLS = {1: 1000, 64: 500, 1024: 100}
_TARGETS = {1: 2.0, 64: 2.0, 1024: 2.5}  # beside torchrec
_INT8, _FLOAT32 = 'int8', 'ours, float32'
_TARGET_INT8 = 1.2


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
      _TARGETS[batch] if quantile == 'p50' else None,
      less_is_better=True,
      against=peers.TORCHREC,
    )
    for quantile in ('p50', 'p99')
  ]


def compare_int8(
  found: peers.Peers, rounds: int, batch: int, calls: int
) -> dict[str, Any]:
  """The row of int8 of one size of batch; arguments as those of `compare`."""
  ours = [sys.executable, '-m', 'benchmarks.our_inference']
  kind = f'--kind={_INT8}'
  commands = {peers.OURS: [*ours, kind], _FLOAT32: ours}
  if found.torchrec:
    peer = [found.python, '-m', 'benchmarks.peer_inference', kind]
    commands[peers.TORCHREC] = peer
  flags = [f'--batch={batch}', f'--calls={calls}']
  seen = medians({k: [*c, *flags] for k, c in commands.items()}, rounds)
  values = {name: of['p50'] for name, of in seen.items()}
  single = values.pop(_FLOAT32)
  gain = {_FLOAT32: single, 'times float32': single / values[peers.OURS]}
  return peers.row(
    f'inference in {_INT8}, batch {batch}, p50',
    'ms',
    values,
    _TARGET_INT8,
    less_is_better=True,
    more=gain,
  )


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
