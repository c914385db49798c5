"""What a compiled step moves between devices, read off its HLO text.

    text = jax.jit(step).lower(...).compile().as_text()
    exchanged(collectives(text))  # bytes that a device sends: as many arrive

All devices run one program, so what one of them sends is what it receives. Of
n devices in a group, with X the bytes of a device's whole operand or result:

    all-to-all          (n - 1) / n X      the part for itself stays
    all-gather          (n - 1) / n X      X gathered
    reduce-scatter      (n - 1) / n X      X before it is scattered
    all-reduce          2 (n - 1) / n X    around a ring: the two above
    collective-permute  X
    ragged-all-to-all   (n - 1) / n X      at most

An instruction counts once, wherever it stands: a loop's body as one trip.
Loops of the scope `overflow` usually have none, and are kept apart.
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
"""Opcodes of collectives, the longer ones before those that they contain."""

_INSTRUCTION = re.compile(
  r'%?([\w.-]+) = (.*?) (' + '|'.join(KINDS) + r')(-start|-done)?\((.*)'
)
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_CALLED = re.compile(r' fusion\(.*calls=%?([\w.-]+)')
_HEADER = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$')


@dataclasses.dataclass(frozen=True)
class Collective:
  """A kind of exchange between devices.

  Attributes:
    kind: as HLO calls it.
    shape: of its result, for example 'f32[8,64,128]'; several where XLA
      merged several.
    group: devices that take part together.
    bytes: that a device sends, and receives, each time.
    overflow: whether it stands in the scope of that name.
    count: how many there are.
  """

  kind: str
  shape: str
  group: int
  bytes: int
  overflow: bool
  count: int = 1


class _Line(NamedTuple):
  """An instruction, with the computation that it stands in."""

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
  """Of one element: pred, f32, bf16, f8e4m3fn, ..."""
  width = re.search(r'\d+', dtype)
  return 8 if width is None else int(width.group())


def _group(rest: str, devices: int) -> int:
  """How many devices a collective connects.

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
  """Bytes that leave a device, from those of the result."""
  if kind == 'collective-permute':
    return size
  if kind == 'reduce-scatter':
    return size * (group - 1)
  return (1 + (kind == 'all-reduce')) * size * (group - 1) // group


def _read(hlo: str) -> tuple[list[_Line], set[str], set[str]]:
  """Collectives; computations of fusions; those that start something."""
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

  One that overlaps with other work stands several times: as -start and -done;
  or, as TPUs have it, in a fusion that starts it and in those that go on.
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
    goes_on = line.computation in fused - starting and (
      (line.kind, *channel.findall(line.rest)) in started
    )
    if line.phase != '-done' and not goes_on:
      yield line._replace(shape=done.get(line.name, line.shape))


def collectives(hlo: str) -> list[Collective]:
  """The exchanges of a program, those that move most first.

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
  found: Counter[Collective] = Counter()
  for line in _distinct(hlo):
    group = _group(line.rest, devices)
    arrays = [f'{t}[{dims}]' for t, dims in _ARRAY.findall(line.shape)]
    shapes = Counter(arrays).items()
    scope = re.search(r'op_name="([^"]*)"', line.rest)
    found[
      Collective(
        kind=line.kind,
        shape=', '.join(s if n == 1 else f'{n} x {s}' for s, n in shapes),
        group=group,
        bytes=_sent(line.kind, shape_bytes(line.shape), group),
        overflow=scope is not None and 'overflow' in scope.group(1).split('/'),
      )
    ] += 1
  merged = [dataclasses.replace(c, count=n) for c, n in found.items()]
  return sorted(merged, key=lambda c: (-c.bytes * c.count, c.kind, c.shape))


def exchanged(found: Iterable[Collective], kind: str | None = None) -> int:
  """Bytes that a device sends in a step without overflow; as many arrive.

  Args:
    found: by `collectives`.
    kind: only of this kind.
  """
  return sum(
    c.bytes * c.count
    for c in found
    if not c.overflow and kind in (None, c.kind)
  )
