"""Training steps on batches in memory, beside those of the peers.

python -m benchmarks.step [--peer_python=PYTHON] [--dlrm=PATH]

Peers are facebookresearch/dlrm, from the path given, and torchrec with FBGEMM,
as installed for the Python given. Each runs in a process of its own, in turn;
numbers are medians, ratios against the faster peer.
"""

import argparse
import subprocess
import sys

from benchmarks import machine
from benchmarks.contest import medians

_STEPS = {128: 150, 2048: 20, 16384: 3}


def _has(python: str, module: str) -> bool:
  found = subprocess.run(
    [python, '-c', f'import {module}'], capture_output=True, check=False
  )
  return found.returncode == 0


def _peers(python: str, dlrm: str) -> dict[str, list[str]]:
  """Commands of the peers that are there; says which are not."""
  peer = [python, '-m', 'benchmarks.peer_step']
  if not _has(python, 'torch'):
    print(f'no peers: {python} has no torch; give --peer_python')
    return {}
  found = {}
  if dlrm:
    found['facebookresearch/dlrm'] = [*peer, f'--dlrm={dlrm}']
  else:
    print('no facebookresearch/dlrm: give --dlrm=PATH of a checkout')
  if _has(python, 'torchrec, fbgemm_gpu'):
    found['torchrec + FBGEMM'] = peer
  else:
    print(f'no torchrec: {python} has no torchrec and fbgemm-gpu-cpu')
  return found


def main() -> None:
  """Measures every size and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--peer_python', default=sys.executable)
  parser.add_argument('--dlrm', default='', help='a checkout of it')
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args()
  peers = _peers(arguments.peer_python, arguments.dlrm)
  commands = {'ours': [sys.executable, '-m', 'benchmarks.our_step']} | peers
  rows = []
  for batch, steps in _STEPS.items():
    for dtype in ('float32', 'bfloat16'):
      flags = [f'--batch={batch}', f'--steps={steps}']
      if dtype == 'bfloat16':
        flags.append('--bfloat16')
      sized = {name: [*command, *flags] for name, command in commands.items()}
      rates = {
        name: found['examples/s']
        for name, found in medians(sized, arguments.rounds).items()
      }
      best = max((rates[name] for name in peers), default=None)
      rows.append(
        {'batch': batch, 'products': dtype}
        | {name: f'{rate:,.0f}' for name, rate in rates.items()}
        | {'ratio': f'{rates["ours"] / best:.2f}' if best else ''}
      )
  machine.show('step', rows)


if __name__ == '__main__':
  main()
