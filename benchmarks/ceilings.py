"""The machine's own ceilings, and what share of them the step reaches.

python -m benchmarks.ceilings

A large matrix product, and a copy of memory, as JAX does them; in turn with
the training step of the Kaggle shape at batch 2048, and with its layers alone
(forward and backward, interaction too). The step's arithmetic is that of its
layers' products, counted from their widths.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import kaggle, machine, peers, targets
from benchmarks.contest import medians

_BATCH, _STEPS = 2048, 5
_SIZE, _BYTES = 4096, 1 << 29
_KINDS = 'float32', 'bfloat16'


def flop() -> int:
  """Operations of the layers' products for an example, there and back.

  A layer is three products: forward, and two gradients.

  >>> f'{flop() / 1e6:.2f} million'
  '2.85 million'
  """
  vectors = len(kaggle.ROWS) + 1
  pairs = vectors * (vectors - 1) // 2
  return sum(
    3 * 2 * wide * narrow
    for widths in (
      (kaggle.DENSE, *kaggle.BOTTOM),
      (pairs + kaggle.DIM, *kaggle.TOP),
    )
    for wide, narrow in itertools.pairwise(widths)
  )


def compare(
  seconds: Mapping[str, float], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
  """Rows.

  Args:
    seconds: of `our_ceiling`.
    rates: examples a second of the step, by kind of product.
  """
  copied = 2 * _BYTES / seconds['copy'] / 1e9
  rows = [peers.row('copy of memory, read + written', 'GB/s', _mine(copied))]
  for dtype in _KINDS:
    ceiling = 2 * _SIZE**3 / seconds[f'product {dtype}'] / 1e9
    step = flop() * rates[dtype] / 1e9
    layers = flop() * _BATCH / seconds[f'layers {dtype}'] / 1e9
    what = f'matrix product {_SIZE} x {_SIZE}, {dtype}'
    rows.append(peers.row(what, 'GFLOP/s', _mine(ceiling)))
    for part, speed in (
      ('layers, forward and backward', layers),
      ('whole step', step),
    ):
      what = f'{part}, batch {_BATCH}, {dtype}'
      values = _mine(speed) | {targets.SHARE: speed / ceiling}
      rows.append(peers.row(what, 'GFLOP/s', values))
  return rows


def _mine(value: float) -> dict[str, float]:
  return {peers.OURS: value}


def main() -> None:
  """Measures and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=7)
  rounds = parser.parse_args().rounds
  command = [sys.executable, '-m']
  found = medians(
    {
      'ceilings': [
        *(*command, 'benchmarks.our_ceiling', f'--size={_SIZE}'),
        *(f'--bytes={_BYTES}', f'--batch={_BATCH}'),
      ],
      'step': [
        *(*command, 'benchmarks.our_step', f'--batch={_BATCH}'),
        *(f'--steps={_STEPS}', f'--kinds={",".join(_KINDS)}'),
      ],
    },
    rounds,
  )
  machine.show('ceilings', compare(found['ceilings'], found['step']))


if __name__ == '__main__':
  main()
