"""Divides the time of a recorded trace among the parts of a step.

Every operation that a device ran is in the trace under the name of an
instruction of the compiled step. The program's text maps instructions to the
code: the scopes of `train_step`, and the gradient of `layers`. Operations
overlap, on one device and between devices, so a moment is divided among all
operations that run then. When none runs, the step waits for its input or is
idle. So the parts add up to the time that passed.

Traces of CPUs and GPUs name instructions in the statistic `hlo_op`, traces of
TPUs on the line `XLA Ops`. Tests cover CPUs; the rest follows JAX's
documentation.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData

from dlrm_jax import hlo

INPUT, OTHER, IDLE = 'input', 'other', 'idle'
PARTS = (
  INPUT,
  'lookup',
  'forward',
  'backward',
  'exchange',
  'update',
  OTHER,
  IDLE,
)
RECORDED = 'recorded steps'
"""Spans the steps in a trace; `INPUT` spans the wait for each batch."""

_INSTRUCTION = re.compile(
  r'\s*(ROOT )?%?(?P<name>[\w.-]+) = .*? (?P<opcode>[a-z][\w-]*)\((?P<rest>.*)'
)
_HEADER = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$')
_EXCHANGE = re.compile('(' + '|'.join(hlo.KINDS) + ')(-start|-done)?')
# They run other instructions, which the trace has as well.
_OUTER = ('while', 'conditional', 'call')
_SCOPE = re.compile(r'\b(lookup|update|exchange)\b')


class Span(NamedTuple):
  """A time in which a part had work; start and stop in nanoseconds."""

  start: float
  stop: float
  part: str


def _part_of_code(name: str) -> str | None:
  """The part that a place in the code belongs to, by JAX's name of it.

  >>> _part_of_code('jit(train_step)/transpose(jvp(layers))/top/dot_general')
  'backward'
  """
  scopes = _SCOPE.findall(name)
  if scopes:
    return 'exchange' if 'exchange' in scopes else scopes[0]
  if 'transpose(' in name:
    return 'backward'
  return 'forward' if re.search(r'jvp\(|\blayers\b', name) else None


def parts_of(text: str) -> dict[str, str | None]:
  """Maps each instruction to its part; None if it only runs other ones.

  Instructions that XLA added have no place in the code: a fusion gets the part
  of its result, others that of their first operand that has one.

  >>> text = '''HloModule jit_step
  ... ENTRY %main (x: f32[8]) -> f32[8] {
  ...   %s = f32[8]{0} sine(%x), metadata={op_name="jit(step)/lookup/sin"}
  ...   %c = f32[8]{0} copy(%s)
  ...   ROOT %r = f32[8]{0} all-reduce(%c), to_apply=%add
  ... }'''
  >>> parts_of(text)
  {'s': 'lookup', 'c': 'lookup', 'r': 'exchange'}
  """
  found: dict[str, str | None] = {}
  roots: dict[str, str] = {}
  computation = ''
  # Computations stand before those that call them, operands before users.
  for line in text.splitlines():
    if header := _HEADER.match(line):
      computation = header[1]
    elif instruction := _INSTRUCTION.match(line):
      name, opcode, rest = instruction.group('name', 'opcode', 'rest')
      found[name] = _part(opcode, rest, found, roots)
      if instruction[1]:
        roots[computation] = found[name] or OTHER
  return found


def _part(
  opcode: str,
  rest: str,
  found: dict[str, str | None],
  roots: dict[str, str],
) -> str | None:
  if opcode in _OUTER:
    return None
  if _EXCHANGE.fullmatch(opcode):
    return 'exchange'
  code = re.search(r'op_name="([^"]*)"', rest)
  called = re.search(r'calls=%?([\w.-]+)', rest)
  known = [
    _part_of_code(code[1]) if code else None,
    roots.get(called[1]) if called else None,
  ]
  operands = re.findall(r'%([\w.-]+)', rest.split(')', 1)[0])
  for part in (*known, *(found.get(operand) for operand in operands)):
    if part not in (None, OTHER):
      return part
  return OTHER


def divide(
  spans: Iterable[Span], start: float, stop: float
) -> dict[str, float]:
  """Nanoseconds of each of `PARTS`; they add up to `stop - start`.

  Args:
    spans: spans in any order; they are cut at start and stop.
    start: begin of the time.
    stop: end of the time.

  >>> spans = [Span(0, 4, 'lookup'), Span(2, 6, 'update'), Span(5, 9, 'input')]
  >>> {k: v for k, v in divide(spans, 0, 10).items() if v}
  {'input': 3.0, 'lookup': 3.0, 'update': 3.0, 'idle': 1.0}
  """
  changes = [
    (min(max(time, start), stop), change, span.part)
    for span in spans
    for time, change in ((span.start, 1), (span.stop, -1))
  ]
  found = dict.fromkeys(PARTS, 0.0)
  running: Counter[str] = Counter()
  now = start
  for time, change, part in [*sorted(changes), (stop, 0, IDLE)]:
    inputs = running[INPUT]
    devices = running.total() - inputs
    if devices:
      for name, count in running.items():
        if name != INPUT:
          found[name] += (time - now) * count / devices
    else:
      found[INPUT if inputs else IDLE] += time - now
    running[part] += change
    now = time
  return found


def _instruction(line: Any, event: Any, module: str) -> str | None:
  """The instruction that an event ran; '' for one of another program."""
  stats = dict(event.stats)
  if 'hlo_op' in stats:
    return stats['hlo_op'] if stats.get('hlo_module') == module else ''
  if line.name == 'XLA Ops':
    return event.name.split(' = ')[0].lstrip('%')
  return None


def _spans(trace: Any, text: str) -> Iterator[Span]:
  """Spans of operations, of waits for input, and of the whole recording."""
  parts = parts_of(text)
  module = re.findall(r'HloModule ([\w.-]+)', text)[0]
  for plane in trace.planes:
    for line in plane.lines:
      for event in line.events:
        stop = event.start_ns + event.duration_ns
        if event.name in (INPUT, RECORDED):
          yield Span(event.start_ns, stop, event.name)
        elif (ran := _instruction(line, event, module)) is not None:
          part = parts.get(ran, OTHER)
          if part is not None:
            yield Span(event.start_ns, stop, part)


def read_trace(path: Path, text: str) -> dict[str, float]:
  """Nanoseconds of each of `PARTS` in a trace.

  Args:
    path: the .xplane.pb that `jax.profiler` wrote, with one span `RECORDED`.
    text: text of the compiled step that ran.
  """
  spans = list(_spans(ProfileData.from_file(str(path)), text))
  (whole,) = [span for span in spans if span.part == RECORDED]
  spans.remove(whole)
  return divide(spans, whole.start, whole.stop)
