"""A server in a process of its own, its CPU time and its memory."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self


class Server:
  """A server, which prints its addresses and then that it is ready.

  Attributes:
    addresses: HOST:PORT of each, in the order in which they were printed.
  """

  def __init__(self, command: Sequence[str]) -> None:
    """Starts it, and waits until it is ready."""
    self._process = subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert self._process.stdout is not None
    text = ''
    while 'ready' not in text:
      line = self._process.stdout.readline()
      if not line:
        raise SystemExit(f'{" ".join(command)}: {self._process.wait()}')
      text += line
    self.addresses = re.findall(r'://([\d.]+:\d+)', text)

  def cpu_seconds(self) -> float:
    """What it has computed, over all its threads."""
    text = Path(f'/proc/{self._process.pid}/stat').read_text()
    user, system = text.rpartition(')')[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')

  def memory(self) -> float:
    """Its resident memory in MB."""
    text = Path(f'/proc/{self._process.pid}/statm').read_text()
    return int(text.split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: object, *error: object) -> None:
    """Ends it, which must be in order, or by the signal."""
    self._process.terminate()
    status = self._process.wait()
    if kind is None and status not in (0, -signal.SIGTERM):
      raise SystemExit(f'the server ended with status {status}')
