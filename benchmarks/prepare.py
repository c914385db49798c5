"""Rows a second and peak memory of preparing a Criteo log, by its size.

python -m benchmarks.prepare --input=train.txt --memory=2GB
python -m benchmarks.prepare --input=train.txt --dlrm=PATH  # and the reference

The log is made of the input: copies of it, one after the other, in each of
which the categories of a quarter of the rows are changed, so that vocabularies
grow. Memory is that of all processes together, shared pages
counted once, looked at ten times a second. PATH is a copy of
facebookresearch/dlrm, whose `data_utils` preprocesses the input itself.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine

_EVERY = 4
"""One of so many rows of a copy is changed."""

_REFERENCE = """
import sys
sys.path.insert(0, sys.argv[1])
import data_utils
data_utils.getCriteoAdData(
  sys.argv[2], 'processed', 10_000_000, 0.0, 7, 'train', 'total', True)
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


def _row(who: str, rows: int, seconds: float, peak: int) -> dict[str, str]:
  return {
    'program': who,
    'rows': f'{rows:,}',
    'seconds': f'{seconds:.1f}',
    'rows/s': f'{rows / seconds:,.0f}',
    'peak memory, MB': f'{peak / 1e6:,.0f}',
  }


def _ours(source: Path, rows: int, memory: str, work: Path) -> dict[str, str]:
  log = work / 'log.txt'
  made = replicate(source, rows, log)
  command = [
    *(sys.executable, '-m', 'dlrm_jax.prepare', 'criteo', f'--input={log}'),
    *(f'--output={work / "set"}', f'--memory={memory}'),
  ]
  seconds, peak = timed(command, Path.cwd())
  shutil.rmtree(work / 'set')
  log.unlink()
  return _row(f'dlrm_jax, --memory={memory}', made, seconds, peak)


def _reference(source: Path, dlrm: str, work: Path) -> dict[str, str]:
  # It goes on with what it finds beside the log.
  work = Path(tempfile.mkdtemp(dir=work))
  log = work / 'log.txt'
  shutil.copyfile(source, log)
  rows = sum(1 for _ in log.open())
  command = [sys.executable, '-c', _REFERENCE, os.path.abspath(dlrm), str(log)]
  return _row('facebookresearch/dlrm', rows, *timed(command, work))


def main() -> None:
  """Prepares logs of several sizes and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--input', required=True, type=Path)
  parser.add_argument('--rows', type=int, default=5_000_000)
  parser.add_argument('--times', default='1', help='sizes, as in 1,4,16')
  parser.add_argument('--memory', default='4GB')
  parser.add_argument('--rounds', type=int, default=1)
  parser.add_argument('--dlrm', help='a copy of facebookresearch/dlrm')
  parser.add_argument('--work', help='folder for the files')
  arguments = parser.parse_args()
  source = arguments.input.absolute()
  rows = []
  with tempfile.TemporaryDirectory(dir=arguments.work) as name:
    for _ in range(arguments.rounds):
      for size in map(int, arguments.times.split(',')):
        count = size * arguments.rows
        rows.append(_ours(source, count, arguments.memory, Path(name)))
      if arguments.dlrm:
        rows.append(_reference(source, arguments.dlrm, Path(name)))
  machine.show('prepare', rows)


if __name__ == '__main__':
  main()
