"""Memory and disk of preparing, and how many workers they allow."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from dlrm_jax import machine
from dlrm_jax.errors import InputError
from dlrm_jax.text import human

_BASE = 300 << 20
"""Of the main process, about."""

WORKER_BYTES = 500 << 20
"""Of a worker, without lookup tables; a piece or a shard at a time."""


class Budget(NamedTuple):
  """What may be used.

  Attributes:
    memory: bytes in all.
    workers: processes.
    worker: bytes of memory of one of them.
    tables: bytes of memory for lookup tables, which all share.
  """

  memory: int
  workers: int
  worker: int
  tables: int


def budget(memory: int, row_bytes: int, cores: int | None = None) -> Budget:
  """Divides memory; as many workers as there are cores, if it allows.

  Args:
    memory: bytes.
    row_bytes: of an example.
    cores: workers at most; None: as many as there are cores for this process.

  Raises:
    InputError: it is too little for one worker.
  """
  # Bags make rows wide, and frames with them.
  worker = WORKER_BYTES + (1 << 18) * max(0, row_bytes - 256) * 2
  least = _BASE + worker + (64 << 20)
  if memory < least:
    raise InputError(
      f'--memory: {human(memory)} is too little for one worker; expected '
      f'{human(least)} or more'
    )
  # A quarter is for lookup tables, where there are workers enough.
  if cores is None:
    cores = machine.cores()
  workers = max(1, min(cores, int(memory * 0.75 - _BASE) // worker))
  return Budget(memory, workers, worker, memory - _BASE - workers * worker)


def default_memory() -> int:
  """Half of what is free for this process, in bytes."""
  return machine.free_memory() // 2


def used(folder: Path) -> int:
  """Bytes of the files in a folder; some may vanish meanwhile."""
  total = 0
  for here, _, names in os.walk(folder):
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        total += (Path(here) / name).stat().st_size
  return total


def check_disk(folder: Path, need: int) -> None:
  """Raises `InputError` where a disk has not so many bytes free."""
  free = shutil.disk_usage(folder).free
  if free < need:
    raise InputError(
      f'{folder}: about {human(need)} are needed while the set is made, '
      f'{human(free)} are free; make room, or choose another --output'
    )
