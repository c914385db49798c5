"""Bytes that a compiled step moves between devices, from its HLO text.

    text = jax.jit(step).lower(...).compile().as_text()
    exchanged(collectives(text))  # bytes that each device sends and receives

All devices run one program, so each receives as many bytes as it sends. For n
devices in a group, with X the bytes of a device's whole operand or result:

    all-to-all          (n - 1) / n X      its own part stays
    all-gather          (n - 1) / n X      X: the result
    reduce-scatter      (n - 1) / n X      X: the operand
    all-reduce          2 (n - 1) / n X    around a ring: both of these
    collective-permute  X
    ragged-all-to-all   (n - 1) / n X      at most

Every instruction counts once; the body of a loop counts as one trip. Loops in
the scope `overflow` usually make no trip, so they are counted separately.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

KINDS = (
  'ragged-all-to-all',
  'all-to-all',
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
)
"""Opcodes of collectives; an opcode that contains another comes before it."""

_INSTRUCTION = re.compile(
  r'%?([\w.-]+) = (.*?) (' + '|'.join(KINDS) + r')(-start|-done)?\((.*)'
)
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_CALLED = re.compile(r' fusion\(.*calls=%?([\w.-]+)')
_HEADER = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$')


@dataclasses.dataclass(frozen=True)
class Collective:
  """Equal exchanges between devices.

  Attributes:
    kind: opcode of HLO.
    shape: shape of the result, for example 'f32[8,64,128]'; several shapes
      where XLA merged collectives.
    group: number of devices that exchange with one another.
    bytes: bytes that a device sends, and receives, in one exchange.
    overflow: whether it is in the scope `overflow`.
    count: number of these exchanges.
  """

  kind: str
  shape: str
  group: int
  bytes: int
  overflow: bool
  count: int = 1


class _Line(NamedTuple):
  """A line of HLO text with a collective, and the name of its computation."""

  computation: str
  name: str
  shape: str
  kind: str
  phase: str
  rest: str


def shape_bytes(shape: str) -> int:
  """Bytes of all arrays in the text of a type.

  >>> shape_bytes('(f32[2,3]{1,0:T(8,128)S(1)}, bf16[4]{0}, pred[])')
  33
  """
  return sum(
    math.prod(int(n) for n in dims.split(',') if n) * _bits(dtype) // 8
    for dtype, dims in _ARRAY.findall(shape)
  )


def _bits(dtype: str) -> int:
  """Bits of an element of a type such as pred, f32, bf16 or f8e4m3fn."""
  width = re.search(r'\d+', dtype)
  return 8 if width is None else int(width.group())


def _group(rest: str, devices: int) -> int:
  """Number of devices that a collective connects.

  >>> _group('%x), replica_groups={{0,1},{2,3}}, dimensions={0}', 4)
  2
  >>> _group('%x), replica_groups=[2,4]<=[8], dimensions={0}', 8)
  4
  >>> _group("%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%y", 8)
  4
  >>> _group('%x), replica_groups={}, to_apply=%y', 8)
  8
  """
  if found := re.search(r'replica_groups=\{\{([\d,]*)\}', rest):
    return len(found.group(1).split(','))
  if found := re.search(r'replica_groups=\[\d+,(\d+)\]<=', rest):
    return int(found.group(1))
  if found := re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', rest):
    sizes = dict(re.findall(r"'([^']*)'=(\d+)", found.group(1)))
    axes = re.findall(r"'([^']*)'", found.group(2))
    return math.prod(int(sizes[axis]) for axis in axes)
  return devices


def _sent(kind: str, size: int, group: int) -> int:
  """Bytes that leave a device, from the bytes of the result."""
  if kind == 'collective-permute':
    return size
  if kind == 'reduce-scatter':
    return size * (group - 1)
  return (1 + (kind == 'all-reduce')) * size * (group - 1) // group


def _read(hlo: str) -> tuple[list[_Line], set[str], set[str]]:
  """Lines of collectives; names of fused and of starting computations."""
  lines, fused, starting, computation = [], set(), set(), ''
  for text in hlo.splitlines():
    if header := _HEADER.match(text):
      computation = header.group(1)
    elif '"AsyncCollectiveStart"' in text:
      starting.add(computation)
    elif found := _INSTRUCTION.search(text):
      name, shape, kind, phase, rest = found.groups()
      lines.append(_Line(computation, name, shape, kind, phase or '', rest))
    fused.update(_CALLED.findall(text))
  return lines, fused, starting


def _distinct(hlo: str) -> Iterator[_Line]:
  """Every collective once, with the type of its result.

  A collective that overlaps with other work has several lines: -start and
  -done; on TPUs, one in the fusion that starts it and in each that continues.
  """
  lines, fused, starting = _read(hlo)
  done = {
    re.findall(r'[\w.-]+', line.rest)[0]: line.shape
    for line in lines
    if line.phase == '-done'
  }
  channel = re.compile(r'channel_id=\d+')
  started = {
    (line.kind, channel.findall(line.rest)[0])
    for line in lines
    if line.computation in starting
  }
  for line in lines:
    continues = line.computation in fused - starting and (
      (line.kind, *channel.findall(line.rest)) in started
    )
    if line.phase != '-done' and not continues:
      yield line._replace(shape=done.get(line.name, line.shape))


def collectives(hlo: str) -> list[Collective]:
  """The collectives of a program, those that move most bytes first.

  Args:
    hlo: text of a compiled module.

  >>> text = '''HloModule jit_f, num_partitions=8
  ... ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  ...   %a = f32[8,4]{1,0} all-to-all(%x), replica_groups={{0,1,2,3,4,5,6,7}}
  ...   ROOT %s = f32[8,4]{1,0} all-reduce(%a), replica_groups=[1,8]<=[8]
  ... }'''
  >>> [(c.kind, c.shape, c.bytes) for c in collectives(text)]
  [('all-reduce', 'f32[8,4]', 224), ('all-to-all', 'f32[8,4]', 112)]
  """
  partitions = re.search(r'num_partitions=(\d+)', hlo)
  replicas = re.search(r'replica_count=(\d+)', hlo)
  devices = math.prod(int(n.group(1)) for n in (partitions, replicas) if n)
  counts: Counter[Collective] = Counter()
  for line in _distinct(hlo):
    group = _group(line.rest, devices)
    arrays = [f'{t}[{dims}]' for t, dims in _ARRAY.findall(line.shape)]
    shapes = Counter(arrays).items()
    scope = re.search(r'op_name="([^"]*)"', line.rest)
    counts[
      Collective(
        kind=line.kind,
        shape=', '.join(s if n == 1 else f'{n} x {s}' for s, n in shapes),
        group=group,
        bytes=_sent(line.kind, shape_bytes(line.shape), group),
        overflow=scope is not None and 'overflow' in scope.group(1).split('/'),
      )
    ] += 1
  merged = [dataclasses.replace(c, count=n) for c, n in counts.items()]
  return sorted(merged, key=lambda c: (-c.bytes * c.count, c.kind, c.shape))


def exchanged(found: Iterable[Collective], kind: str | None = None) -> int:
  """Bytes that a device sends, and receives, in a step without overflow.

  Args:
    found: what `collectives` returned.
    kind: an opcode, to count only its collectives; None: all.
  """
  return sum(
    c.bytes * c.count
    for c in found
    if not c.overflow and kind in (None, c.kind)
  )
