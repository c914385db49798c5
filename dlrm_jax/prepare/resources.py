"""Memory and disk for preparing, and the number of workers they allow."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from dlrm_jax import machine
from dlrm_jax.errors import InputError
from dlrm_jax.text import human

_BASE = 300 << 20
"""Approximate bytes of memory of the main process."""

WORKER_BYTES = 500 << 20
"""Bytes of memory of a worker, without lookup tables.

A worker holds one piece, slice or shard at a time."""


class Resources(NamedTuple):
  """Memory and its division.

  Attributes:
    memory: bytes in all.
    workers: number of worker processes.
    worker: bytes of one worker.
    tables: bytes of the lookup tables, which all workers share.
  """

  memory: int
  workers: int
  worker: int
  tables: int


def divided(memory: int, row_bytes: int, cores: int | None = None) -> Resources:
  """Divides memory among as many workers as cores and memory allow.

  Args:
    memory: bytes in all.
    row_bytes: bytes of an encoded example.
    cores: maximum number of workers; None: the cores of this process.

  Raises:
    InputError: the memory is too little for one worker.
  """
  # Bags make rows wide, and so the frames that a worker holds.
  worker = WORKER_BYTES + (1 << 18) * max(0, row_bytes - 256) * 2
  least = _BASE + worker + (64 << 20)
  if memory < least:
    raise InputError(
      f'--memory: {human(memory)} is too little for one worker; expected '
      f'{human(least)} or more'
    )
  # A quarter is for lookup tables, unless there is one worker only.
  if cores is None:
    cores = machine.cores()
  workers = max(1, min(cores, int(memory * 0.75 - _BASE) // worker))
  return Resources(memory, workers, worker, memory - _BASE - workers * worker)


def default_memory() -> int:
  """Half of the memory that this process can get, in bytes."""
  return machine.free_memory() // 2


def folder_bytes(folder: Path) -> int:
  """Bytes of all files in a folder; a file may vanish meanwhile."""
  total = 0
  for parent, _, names in os.walk(folder):
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        total += (Path(parent) / name).stat().st_size
  return total


def check_disk(folder: Path, need: int) -> None:
  """Raises `InputError` if the disk of a folder has fewer free bytes."""
  free = shutil.disk_usage(folder).free
  if free < need:
    raise InputError(
      f'{folder}: about {human(need)} are needed while the set is made, '
      f'{human(free)} are free; make room, or choose another --output'
    )
