"""Products of matrices of 64-bit integers, beside NumPy's and FBGEMM's.

python -m benchmarks.int64_products [--peer_python=PYTHON]

Ours with its kernel in C, and of digits, as without a kernel; NumPy's `a @ b`;
and PyTorch's, which on x86 is FBGEMM's i64 GEMM: a kernel where the processor
has AVX-512, plain loops elsewhere. From NumPy's arrays to NumPy's array; an
operation is a multiplication or an addition of 64 bits. Each contender runs in
a process of its own, in turn; numbers are medians, the ratio is against the
better peer.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import machine, peers
from benchmarks.contest import medians

_SIZES = 128, 512
_DIGITS, _NUMPY, _TORCH = 'ours, of digits', 'NumPy', 'PyTorch (FBGEMM)'


def compare(found: peers.Peers, rounds: int, size: int) -> dict[str, float]:
  """Medians of GOP/s by contender.

  Args:
    found: the peers.
    rounds: measurements of each.
    size: M, K and N.
  """
  commands = {
    name: [python, '-m', 'benchmarks.int64_contender', way, f'--size={size}']
    for name, python, way in (
      (peers.OURS, sys.executable, 'kernel'),
      (_DIGITS, sys.executable, 'digits'),
      (_NUMPY, sys.executable, 'numpy'),
      (_TORCH, found.python, 'torch'),
    )
    if python
  }
  measured = medians(commands, rounds)
  return {name: m['GOP/s'] for name, m in measured.items()}


def row(size: int, values: Mapping[str, float]) -> dict[str, Any]:
  """One line; of digits is ours, too, and so no peer."""
  rivals = {name: x for name, x in values.items() if name != _DIGITS}
  what, largest = f'{size} x {size} x {size}', size == max(_SIZES)
  line = peers.row(what, 'GOP/s', rivals, 3.0 if largest else None)
  others = {name: values.get(name) for name in (_DIGITS, _NUMPY, _TORCH)}
  return line | {'at least': 10.0 if largest else None} | others


def main() -> None:
  """Measures every size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser)
  arguments = parser.parse_args()
  found = peers.find(arguments)
  rows = [row(n, compare(found, arguments.rounds, n)) for n in _SIZES]
  machine.show('int64_products', rows)


if __name__ == '__main__':
  main()
