"""Contenders in processes of their own, which take turns.

A contender is a command that calls `serve`: it says when it is ready, then
measures once each time it is told to. The others wait for their input
meanwhile, so no thread of theirs takes time from the one that is measured.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence

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

  Args:
    commands: of the contenders, by name.
    rounds: how many.
  """
  contenders: dict[str, Contender] = {}
  try:
    for name, command in commands.items():
      contenders[name] = Contender(command)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
      for name, contender in contenders.items():
        time.sleep(_PAUSE)
        found[name].append(contender.measure())
  finally:
    for contender in contenders.values():
      contender.end()
  return {
    name: {key: statistics.median(m[key] for m in all_of) for key in all_of[0]}
    for name, all_of in found.items()
  }
