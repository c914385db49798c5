"""Raw Criteo files -> frames of good rows; bad rows stop, or are counted."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import polars as pl

from dlrm_jax.data.criteo_files import RawFile
from dlrm_jax.data.criteo_rows import Fault, parse, sift
from dlrm_jax.errors import InputError

EXAMPLES = 3
"""Bad rows of a kind that are shown."""

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


class BadRows:
  """What to do with bad rows, and those met so far.

  Attributes:
    skip: go on without them; else the first one raises `InputError`.
    counts: how many of each kind.
    examples: the first few of each kind, described.
  """

  def __init__(self, on_bad_row: str = 'stop') -> None:
    if on_bad_row not in ('stop', 'skip'):
      raise InputError(f'--on_bad_row={on_bad_row}: expected stop or skip')
    self.skip = on_bad_row == 'skip'
    self.counts: collections.Counter[str] = collections.Counter()
    self.examples: dict[str, list[str]] = collections.defaultdict(list)

  def add(self, path: str, line: int, fault: Fault) -> None:
    """Takes note of a bad row; `line` counts from 1."""
    column = f', column {fault.column}' if fault.column else ''
    # Without the folder: examples are kept with the prepared set.
    name = Path(path).name if self.skip else path
    where = f'{name}, line {line:,}{column}'
    text = f'{where}: {fault.kind}: {fault.value}; expected {fault.expected}'
    if not self.skip:
      raise InputError(
        f'{text}. Correct the file, or skip bad rows with --on_bad_row=skip'
      )
    self.counts[fault.kind] += 1
    if len(self.examples[fault.kind]) < EXAMPLES:
      self.examples[fault.kind].append(text)

  def report(self) -> Iterator[str]:
    """Lines to show: how many of each kind, and the first ones."""
    for kind, count in self.counts.most_common():
      yield f'skipped {count:,} x {kind}; first:'
      yield from (f'  {example}' for example in self.examples[kind])


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
