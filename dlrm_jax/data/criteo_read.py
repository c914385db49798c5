"""Raw Criteo files -> frames of good rows; bad rows stop, or are counted."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import polars as pl

from dlrm_jax.data.bad_rows import BadRows, Fault
from dlrm_jax.data.criteo_files import RawFile
from dlrm_jax.data.criteo_rows import parse, sift

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


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
