"""Rows a second and peak memory of preparing a Criteo log, by its size.

python -m benchmarks.prepare --input=train.txt [--memory=2GB --times=1,4]
  [--peer_python=PYTHON] [--dlrm=PATH]

The log is made of the input: copies of it, one after the other, in each of
which the categories of a quarter of the rows are changed, so that vocabularies
grow. Memory is that of all processes together, shared pages
counted once, looked at ten times a second. The peers take the input itself, as
they are slow: `data_utils` of facebookresearch/dlrm, and torchrec's functions
for Criteo, which write arrays of NumPy and number the ids.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import machine, peers

_EVERY = 4
"""One of so many rows of a copy is changed."""

_REFERENCE = """
import sys
sys.path.insert(0, sys.argv[1])
import data_utils
data_utils.getCriteoAdData(
  sys.argv[2], 'processed', 10_000_000, 0.0, 7, 'train', 'total', True)
"""

_TORCHREC = """
import sys
from torchrec.datasets.criteo import BinaryCriteoUtils
log, folder = sys.argv[1:]
files = [f'{folder}/{name}.npy' for name in ('dense', 'sparse', 'labels')]
BinaryCriteoUtils.tsv_to_npys(log, *files, dataset_name='criteo_kaggle')
BinaryCriteoUtils.sparse_to_contiguous([files[1]], folder)
"""


def replicate(source: Path, rows: int, target: Path) -> int:
  """Writes so many rows, or a few more; how many."""
  lines = source.read_bytes().splitlines(keepends=True)
  letters = list(itertools.permutations(b'abcdef'))
  written = copies = 0
  with target.open('wb') as file:
    while written < rows:
      # Hex digits above 9: they occur in categories only.
      other = bytes.maketrans(b'abcdef', bytes(letters[copies % len(letters)]))
      changed = lines.copy()
      first = copies % _EVERY
      changed[first::_EVERY] = [
        x.translate(other) for x in lines[first::_EVERY]
      ]
      file.write(b''.join(changed))
      written += len(lines)
      copies += 1
  return written


def _children(process: int) -> list[int]:
  found = subprocess.run(
    ['pgrep', '-P', str(process)], capture_output=True, text=True, check=False
  )
  children = [int(line) for line in found.stdout.split()]
  return children + [c for child in children for c in _children(child)]


def _memory(process: int) -> int:
  """Bytes of a process and its children, shared pages divided."""
  total = 0
  for number in (process, *_children(process)):
    try:
      text = Path(f'/proc/{number}/smaps_rollup').read_text()
    except OSError:
      continue
    total += sum(
      int(line.split()[1]) * 1024
      for line in text.splitlines()
      if line.startswith('Pss:')
    )
  return total


def timed(command: list[str], folder: Path) -> tuple[float, int]:
  """Seconds of a command, and bytes of memory at most."""
  start, peak = time.perf_counter(), 0
  with subprocess.Popen(
    command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
  ) as process:
    while process.poll() is None:
      peak = max(peak, _memory(process.pid))
      time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.returncode:
      assert process.stderr is not None
      sys.exit(process.stderr.read().decode()[-2000:])
  return seconds, peak


class Prepared(NamedTuple):
  """What a program needed.

  Attributes:
    rows: number of rows of the log.
    seconds: from its start to its end.
    peak: bytes of memory at most.
  """

  rows: int
  seconds: float
  peak: int


def _ours(source: Path, rows: int, memory: str, work: Path) -> Prepared:
  log = work / 'log.txt'
  made = replicate(source, rows, log)
  command = [
    *(sys.executable, '-m', 'dlrm_jax.prepare', 'criteo', f'--input={log}'),
    *(f'--output={work / "set"}', f'--memory={memory}'),
  ]
  seconds, peak = timed(command, Path.cwd())
  shutil.rmtree(work / 'set')
  log.unlink()
  return Prepared(made, seconds, peak)


def _theirs(
  source: Path, command: Sequence[str], last: Sequence[str], work: Path
) -> Prepared:
  """What a peer needs for the input itself.

  Args:
    source: the log.
    command: to which the path of a copy is added.
    last: words after that path.
    work: for a folder of its own: peers write beside the log.
  """
  folder = Path(tempfile.mkdtemp(dir=work))
  log = folder / 'log.txt'
  shutil.copyfile(source, log)
  with log.open('rb') as file:
    rows = sum(1 for _ in file)
  seconds, peak = timed([*command, str(log), *last], folder)
  shutil.rmtree(folder)
  return Prepared(rows, seconds, peak)


def compare(
  ours: Sequence[Prepared], theirs: Mapping[str, Sequence[Prepared]]
) -> dict[str, Any]:
  """The row of one size of log.

  Args:
    ours: rounds.
    theirs: rounds of each peer.
  """
  found = {peers.OURS: ours, **theirs}
  rates = {
    name: median(x.rows / x.seconds for x in of_one)
    for name, of_one in found.items()
  }
  title = f'prepare {ours[0].rows:,} rows'
  if theirs:
    title += f' (peers: {next(iter(theirs.values()))[0].rows:,})'
  peak = {
    f'MB, {name}': max(x.peak for x in of_one) / 1e6
    for name, of_one in found.items()
  }
  return peers.row(title, 'rows/s', rates | peak)


def main() -> None:
  """Prepares logs of several sizes and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  peers.add_flags(parser, rounds=1)
  parser.add_argument('--input', required=True, type=Path)
  parser.add_argument('--rows', type=int, default=5_000_000)
  parser.add_argument('--times', default='1', help='sizes, as in 1,4,16')
  parser.add_argument('--memory', default='4GB')
  parser.add_argument('--work', help='folder for the files')
  arguments = parser.parse_args()
  source, found = arguments.input.absolute(), peers.find(arguments)
  commands = {}
  if found.dlrm:
    words = [found.python, '-c', _REFERENCE, found.dlrm]
    commands[peers.DLRM] = words, []
  if found.torchrec:
    commands[peers.TORCHREC] = [found.python, '-c', _TORCHREC], ['.']
  sizes = [int(x) * arguments.rows for x in arguments.times.split(',')]
  ours: dict[int, list[Prepared]] = {size: [] for size in sizes}
  theirs: dict[str, list[Prepared]] = {name: [] for name in commands}
  with tempfile.TemporaryDirectory(dir=arguments.work) as name:
    work = Path(name)
    for _ in range(arguments.rounds):
      for size, rounds in ours.items():
        rounds.append(_ours(source, size, arguments.memory, work))
      for peer, (command, last) in commands.items():
        theirs[peer].append(_theirs(source, command, last, work))
  rows = [compare(rounds, theirs) for rounds in ours.values()]
  machine.show('prepare', rows)


if __name__ == '__main__':
  main()
