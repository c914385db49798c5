"""Training steps on batches in memory, beside those of the peers.

python -m benchmarks.step [--peer_python=PYTHON] [--dlrm=PATH]

The Kaggle shape at three sizes of batch, each with float32 and bfloat16
products, and with row-wise Adagrad in the place of SGD. Each contender runs in
a process of its own, in turn; numbers are medians.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks import machine, peers
from benchmarks.contest import medians

F32, BF16, ROWWISE = 'float32', 'bfloat16', 'rowwise'


class Size(NamedTuple):
  """A size of batch.

  Attributes:
    steps: in a measurement.
    ours: what we measure.
    theirs: what the peers do, as far as they have it.
  """

  steps: int
  ours: tuple[str, ...]
  theirs: tuple[str, ...]


SIZES = {
  128: Size(150, (F32, BF16), (F32,)),
  2048: Size(20, (F32, BF16, ROWWISE), (F32, BF16, ROWWISE)),
  16384: Size(3, (F32, BF16, ROWWISE), (F32, BF16, ROWWISE)),
}


def measure(
  found: peers.Peers, rounds: int, batch: int, size: Size
) -> dict[str, dict[str, float]]:
  """Examples a second, by contender and by what was measured."""
  ours = [sys.executable, '-m', 'benchmarks.our_step']
  commands = {peers.OURS: [*ours, f'--kinds={",".join(size.ours)}']}
  for name, command in found.commands('peer_step').items():
    commands[name] = [*command, f'--kinds={",".join(size.theirs)}']
  flags = [f'--batch={batch}', f'--steps={size.steps}']
  return medians({k: [*c, *flags] for k, c in commands.items()}, rounds)


def compare(
  rates: Mapping[str, Mapping[str, float]], batch: int, size: Size
) -> list[dict[str, Any]]:
  """Rows of one size of batch.

  Args:
    rates: examples a second, by contender and by what was measured.
    batch: B.
    size: what was asked for.
  """

  def row(what: str, mine: str, theirs: str) -> dict[str, Any]:
    values = {
      name: found[mine if name == peers.OURS else theirs]
      for name, found in rates.items()
      if name == peers.OURS or theirs in found
    }
    return peers.row(f'step, batch {batch}, {what}', 'examples/s', values)

  rows = [
    row('float32', F32, F32),
    row('bfloat16 products (peers: float32)', BF16, F32),
  ]
  if BF16 in size.theirs:
    rows.append(row('bfloat16 (peers: torch.autocast)', BF16, BF16))
  if ROWWISE in size.ours:
    rows.append(row('float32, row-wise Adagrad', ROWWISE, ROWWISE))
    cost = rates[peers.OURS][F32] / rates[peers.OURS][ROWWISE]
    title = f'row-wise Adagrad instead of SGD, batch {batch}'
    values = {peers.OURS: cost}
    rows.append(peers.row(title, 'steps with SGD', values))
  return rows


def main() -> None:
  """Measures every size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser)
  arguments = parser.parse_args()
  found, rows = peers.find(arguments), []
  for batch, size in SIZES.items():
    rates = measure(found, arguments.rounds, batch, size)
    rows += compare(rates, batch, size)
  machine.show('step', rows)


if __name__ == '__main__':
  main()
