"""Products of matrices of 64-bit integers, beside NumPy's and FBGEMM's.

python -m benchmarks.int64_products [--peer_python=PYTHON]

Ours with its kernel in C, and of digits, as without a kernel; NumPy's `a @ b`;
and PyTorch's, which on x86 is FBGEMM's i64 GEMM: a kernel where the processor
has AVX-512, plain loops elsewhere. From NumPy's arrays to NumPy's array; an
operation is a multiplication or an addition of 64 bits. Each contender runs in
a process of its own, in turn; numbers are medians.
"""

import argparse
import sys

from benchmarks import machine, peers
from benchmarks.contest import medians

_SIZES = 128, 512
_DIGITS = 'ours, of digits'


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
      (peers.NUMPY, sys.executable, 'numpy'),
      (peers.TORCH, found.python, 'torch'),
    )
    if python
  }
  measured = medians(commands, rounds)
  return {name: m['GOP/s'] for name, m in measured.items()}


def main() -> None:
  """Measures every size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser)
  arguments = parser.parse_args()
  found = peers.find(arguments)
  rows = []
  for n in _SIZES:
    values = compare(found, arguments.rounds, n)
    rows.append(
      peers.row(f'product of int64, {n} x {n} x {n}', 'GOP/s', values)
    )
  machine.show('int64_products', rows)


if __name__ == '__main__':
  main()
