"""The update of the tables of the Kaggle shape, beside that of FBGEMM.

python -m benchmarks.update [--peer_python=PYTHON]

FBGEMM updates tables in the backward pass of a lookup and cannot do it alone,
so both are measured together: lookup, gradient of every row, update. Each
contender runs in a process of its own, in turn; numbers are medians.
"""

import argparse

from benchmarks import machine, peers, pooled
from benchmarks.lookup import compare

_STEPS = {128: 400, 2048: 40, 16384: 5}


def main() -> None:
  """Measures every size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser)
  arguments = parser.parse_args()
  found, rows = peers.find(arguments), []
  for tx, words in (('sgd', 'SGD'), (pooled.ADAGRAD, 'row-wise Adagrad')):
    for batch, steps in _STEPS.items():
      values = compare(found, arguments.rounds, 'kaggle', batch, steps, tx)
      what = f'{batch}: lookup + update, {words}'
      rows.append(peers.row(what, 'ms', values))
  machine.show('update', rows)


if __name__ == '__main__':
  main()
