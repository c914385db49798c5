"""Contenders in processes of their own, which take turns.

A contender is a command that calls `serve`: it says when it is ready, then
measures once each time it is told to. The others wait for their input
meanwhile, so no thread of theirs takes time from the one that is measured.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.latency import TAIL
from benchmarks.serving import READY

# Threads of OpenMP spin so long before they sleep, and then some.
_PAUSE = 0.25


class Contender:
  """A process that measures when told to."""

  def __init__(self, command: Sequence[str]) -> None:
    """Starts it.

    Args:
      command: that calls `serving.serve`.
    """
    self._command = command
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      # Peers are measured on the CPU, and so are we.
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )
    try:
      self._answer(READY)
    except BaseException:
      self.end()
      raise

  def measure(self) -> dict[str, float]:
    """One measurement."""
    assert self._process.stdin is not None
    self._process.stdin.write('\n')
    self._process.stdin.flush()
    return json.loads(self._answer('{'))

  def _answer(self, beginning: str) -> str:
    """The next line that begins so; what a library prints is passed over."""
    assert self._process.stdout is not None
    for line in self._process.stdout:
      if line.startswith(beginning):
        return line
    raise SystemExit(
      f'{" ".join(self._command)}: ended with status {self._process.wait()}'
    )

  def end(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.communicate()


def medians(
  commands: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, dict[str, float]]:
  """Medians over rounds in which each contender measures once.

  For each round far from the median there is one more, up to twice as many;
  where the machine was too busy all the same, that is said on stderr.

  Args:
    commands: of the contenders, by name.
    rounds: how many.
  """
  contenders: dict[str, Contender] = {}
  before = _stolen()
  try:
    for name, command in commands.items():
      contenders[name] = Contender(command)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}

    def measure() -> None:
      for name, contender in contenders.items():
        time.sleep(_PAUSE)
        found[name].append(contender.measure())

    for _ in range(rounds):
      measure()
    for _ in range(_far(found)):
      measure()
  finally:
    for contender in contenders.values():
      contender.end()
  said = []
  if (share := _far(found) / len(next(iter(found.values())))) > _MOST_FAR:
    said.append(
      f'{share:.0%} of the rounds are over {_NEAR:.0%} off the median'
    )
  if (stolen := _stolen().share(before)) > _MOST_STOLEN:
    said.append(f'other machines took {stolen:.0%} of the time')
  if said:
    print(f'{BUSY}: {", and ".join(said)}', file=sys.stderr, flush=True)
  return {
    name: {key: statistics.median(m[key] for m in all_of) for key in all_of[0]}
    for name, all_of in found.items()
  }


BUSY = 'the machine is busy'
"""Begins what is said where numbers are not to be believed."""

_NEAR, _MOST_FAR, _MOST_STOLEN = 0.15, 0.34, 0.02


def _far(found: Mapping[str, Sequence[Mapping[str, float]]]) -> int:
  """Number of rounds with a measurement far from its median.

  The 99th percentile is none that counts: on any machine it jumps.
  """
  rounds: set[int] = set()
  for measured in found.values():
    for key in measured[0].keys() - {TAIL}:
      values = [m[key] for m in measured]
      middle = statistics.median(values)
      far = [abs(value - middle) > _NEAR * abs(middle) for value in values]
      rounds.update(i for i, is_far in enumerate(far) if is_far)
  return len(rounds)


class _Times(NamedTuple):
  """Time of all processors, and what other machines on them took of it."""

  all: float
  stolen: float

  def share(self, before: '_Times') -> float:
    """Share of the time since then that was taken."""
    return (self.stolen - before.stolen) / max(self.all - before.all, 1)


def _stolen() -> _Times:
  """As Linux counts it; nothing elsewhere."""
  try:
    words = Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:9]
  except OSError:
    return _Times(0, 0)
  times = [float(word) for word in words]
  return _Times(sum(times), times[-1])
