"""Raw Criteo files -> frames of good rows; bad rows stop, or are counted."""

import collections
import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import polars as pl

from dlrm_jax.data.bad_rows import BadRows, Fault
from dlrm_jax.data.criteo_files import DamagedError, check_readable, chunks
from dlrm_jax.data.criteo_parse import parse, sift

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


class RawFile:
  """One file; iterate once, then look at what was found.

  Attributes:
    path: the file, as given.
    size: bytes of it read so far, on disk.
    sha256: of those bytes.
    damage: why reading stopped early, or None.
  """

  def __init__(
    self, path: str, progress: Callable[[int], object] = lambda size: None
  ) -> None:
    self.path = path
    self.size = 0
    self.sha256 = ''
    self.damage: str | None = None
    self._progress = progress

  def __iter__(self) -> Iterator[bytes]:
    """Chunks of whole lines, each line with its end."""
    digest = hashlib.sha256()

    def show(data: bytes) -> None:
      digest.update(data)
      self.size += len(data)
      self._progress(len(data))

    try:
      yield from chunks(self.path, 0, check_readable(self.path), show)
    except DamagedError as damage:
      self.damage = str(damage)
    self.sha256 = digest.hexdigest()


def read_frames(file: RawFile, bad: BadRows) -> Iterator[pl.DataFrame]:
  """The good rows of a file, in order, some 100,000 at a time."""
  line = 1
  for chunk, frame in pooled(lambda chunk: (chunk, parse(chunk)), file):
    if frame is None:
      frame, faults = sift(chunk)
      for offset, fault in faults:
        bad.add(file.path, line + offset, fault)
    line += chunk.count(b'\n')
    if frame.height:
      yield frame
  if file.damage:
    fault = Fault(
      'damaged gzip', None, file.damage, 'a whole file; copy it again'
    )
    bad.add(file.path, line, fault)


def pooled(
  function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
  """Results in the order of the items, one thread a core working ahead."""
  workers = os.cpu_count() or 1
  waiting: collections.deque[concurrent.futures.Future[_Result]]
  waiting = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
