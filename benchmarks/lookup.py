"""Pooled lookups, alone and with an update, beside those of FBGEMM.

python -m benchmarks.lookup [--peer_python=PYTHON]

Forward, and forward + backward + row-wise Adagrad, for the shapes in
`benchmarks.pooled` at batch 64; and forward in rows of int8 and int4. FBGEMM's
kernels for those run in one thread: ours stand beside them in all threads, and
in one. Each contender runs in a process of its own, in turn; numbers are
medians.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine, peers, pooled
from benchmarks.contest import medians

_BATCH = 64
_KINDS = 'int8', 'int4'
ONE_THREAD = 'ours, one thread'
_STEPS = {'RM1': 40, 'RM2': 10, 'RM3': 100}


def compare(
  found: peers.Peers, rounds: int, shape: str, batch: int, steps: int, tx: str
) -> dict[str, Any]:
  """Medians of one comparison, in milliseconds.

  Args:
    found: the peers.
    rounds: measurements of each.
    shape: one of `pooled.SHAPES`.
    batch: B.
    steps: lookups in a measurement.
    tx: the optimizer of the update; '': none.
  """
  commands = {peers.OURS: [sys.executable, '-m', 'benchmarks.our_lookup']}
  if found.torchrec:
    commands |= {peers.TORCHREC: [found.python, '-m', 'benchmarks.peer_lookup']}
  if found.python and tx != pooled.ADAGRAD:
    bags = [found.python, '-m', 'benchmarks.peer_lookup', '--bags']
    commands[peers.BAGS] = bags
  flags = [f'--shape={shape}', f'--batch={batch}', f'--steps={steps}']
  return _milliseconds(commands, [*flags, f'--optimizer={tx}'], rounds)


def _milliseconds(
  commands: Mapping[str, Sequence[str]], flags: Sequence[str], rounds: int
) -> dict[str, float]:
  """Medians of commands that all get some flags."""
  sized = {name: [*command, *flags] for name, command in commands.items()}
  return {name: m['ms'] for name, m in medians(sized, rounds).items()}


def compare_kinds(
  found: peers.Peers, rounds: int, shape: str, batch: int, steps: int, kind: str
) -> dict[str, float]:
  """Medians of lookups in rows of low precision.

  Also of ours in one thread, and in float32.

  Args:
    found: the peers.
    rounds: measurements of each.
    shape: one of `pooled.SHAPES`.
    batch: B.
    steps: lookups in a measurement.
    kind: of rows, one of `_KINDS`.
  """
  ours = [sys.executable, '-m', 'benchmarks.our_pool']
  commands = {
    peers.OURS: [*ours, f'--kind={kind}'],
    ONE_THREAD: [*ours, f'--kind={kind}', '--one_thread'],
    peers.FLOAT32: [*ours, '--kind=float32'],
  }
  if found.torchrec:
    peer = [found.python, '-m', 'benchmarks.peer_lookup', f'--kind={kind}']
    commands[peers.TORCHREC] = peer
  flags = [f'--shape={shape}', f'--batch={batch}', f'--steps={steps}']
  return _milliseconds(commands, flags, rounds)


def kind_rows(what: str, values: Mapping[str, float]) -> list[dict[str, Any]]:
  """Two lines: ours in all threads, and in one, as FBGEMM's.

  Args:
    what: was measured.
    values: of `compare_kinds`.
  """
  other = {k: v for k, v in values.items() if k == peers.TORCHREC}
  single = {peers.OURS: values[ONE_THREAD], **other}
  every = {k: v for k, v in values.items() if k != ONE_THREAD}
  return [
    peers.row(what, 'ms', every),
    peers.row(f'{what}, one thread', 'ms', single),
  ]


def main() -> None:
  """Measures every shape and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser)
  arguments = parser.parse_args()
  found, rows = peers.find(arguments), []
  for tx in ('', pooled.ADAGRAD):
    for name, steps in _STEPS.items():
      values = compare(found, arguments.rounds, name, _BATCH, steps, tx)
      read = pooled.SHAPES[name].bytes * _BATCH
      what = f'{name}: lookup' + (' + update, row-wise Adagrad' if tx else '')
      speed = {'GB/s read': read / values[peers.OURS] / 1e6}
      rows.append(peers.row(what, 'ms', values | speed))
  for kind in _KINDS:
    for name, steps in _STEPS.items():
      values = compare_kinds(
        found, arguments.rounds, name, _BATCH, 4 * steps, kind
      )
      rows += kind_rows(f'{name}: lookup, {kind}', values)
  machine.show('lookup', rows)


if __name__ == '__main__':
  main()
