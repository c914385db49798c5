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

from benchmarks import kaggle, machine, peers
from benchmarks.contest import medians

_BATCH, _STEPS = 2048, 5
_SIZE, _BYTES = 4096, 1 << 29
_SHARES = {'float32': 0.8, 'bfloat16': 0.65}
"""Of the large product's speed: aimed at for the products of the step."""


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
  for dtype, share in _SHARES.items():
    ceiling = 2 * _SIZE**3 / seconds[f'product {dtype}'] / 1e9
    step = flop() * rates[dtype] / 1e9
    layers = flop() * _BATCH / seconds[f'layers {dtype}'] / 1e9
    what = f'matrix product {_SIZE} x {_SIZE}, {dtype}'
    rows.append(peers.row(what, 'GFLOP/s', _mine(ceiling)))
    for part, speed, aim in (
      ('layers, forward and backward', layers, share),
      ('whole step', step, None),
    ):
      what = f'{part}, batch {_BATCH}, {dtype}'
      more = {'share': speed / ceiling, 'share, at least': aim}
      rows.append(peers.row(what, 'GFLOP/s', _mine(speed), more=more))
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
        *(f'--steps={_STEPS}', f'--kinds={",".join(_SHARES)}'),
      ],
    },
    rounds,
  )
  machine.show('ceilings', compare(found['ceilings'], found['step']))


if __name__ == '__main__':
  main()
