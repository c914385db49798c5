"""The operations of a compiled program, read from its HLO text."""

import dataclasses
import re
from collections.abc import Iterator

from dlrm_jax.hlo import shape_bytes

_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)')
_ARRAY = re.compile(r'\b(?:pred|[a-z]+\d+\w*)\[[\d,]*\](?:\{[^{}]*\})?')
_ON_CHIP = re.compile(r'S\([1-9]\d*\)')
_NAME = re.compile(r'%([\w.-]+)')
_CALLED = re.compile(r'(?:calls|to_apply|called_computation)=%?([\w.-]+)')
_BODY = re.compile(r'body=%?([\w.-]+)')
_CONDITION = re.compile(r'condition=%?([\w.-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(
  r'branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.-]+)'
)
_SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Operation:
  """An instruction of HLO.

  Attributes:
    shape: text of the type of its result.
    opcode: name of the operation.
    inside: text of the operands; of a parameter its number, of a constant its
      value.
    rest: text after the operands.
    root: whether it is the result of its computation.
  """

  shape: str
  opcode: str
  inside: str
  rest: str
  root: bool

  @property
  def operands(self) -> tuple[str, ...]:
    """Names of the operands."""
    return tuple(_NAME.findall(self.inside))

  @property
  def arrays(self) -> list[str]:
    """Types of the arrays of its result, in the order of the text."""
    return _ARRAY.findall(self.shape)

  @property
  def size(self) -> int:
    """Bytes of the result outside of the on-chip memory of a TPU."""
    return sum(off_chip(array) for array in self.arrays)

  @property
  def called(self) -> list[str]:
    """Names of the computations that it calls once."""
    return _CALLED.findall(self.rest)

  @property
  def branches(self) -> list[str]:
    """Names of the computations of a conditional, one of which runs."""
    found = (a or b for a, b in _BRANCHES.findall(self.rest))
    return [name.strip(' %') for text in found for name in text.split(',')]

  @property
  def body(self) -> str:
    """Name of the body of a loop."""
    (name,) = _BODY.findall(self.rest)
    return name

  @property
  def overflows(self) -> bool:
    """Whether it is in the scope `overflow`, whose loops usually do not run."""
    scope = _SCOPE.search(self.rest)
    return scope is not None and 'overflow' in scope.group(1).split('/')


Computation = dict[str, Operation]


def off_chip(array: str) -> int:
  """Bytes of an array; 0 if its layout puts it into the on-chip memory.

  >>> off_chip('f32[2,3]{1,0:T(8,128)}'), off_chip('f32[2,3]{1,0:T(8,128)S(1)}')
  (24, 0)
  """
  return 0 if _ON_CHIP.search(array) else shape_bytes(array)


def dims(shape: str) -> list[int]:
  """Sizes of the axes of the first array in the text of a type.

  >>> dims('f32[2,3]{1,0:T(8,128)}')
  [2, 3]
  """
  found = shape[shape.index('[') + 1 : shape.index(']')]
  return [int(n) for n in found.split(',') if n]


def _split(text: str) -> tuple[str, str]:
  """What is within the parentheses that are open, and what follows.

  >>> _split('f32[2]{0:T(128)} %x, %y), kind=kLoop')
  ('f32[2]{0:T(128)} %x, %y', ', kind=kLoop')
  """
  depth = 1
  for at, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return text[:at], text[at + 1 :]
  return text, ''


def source(body: Computation, name: str) -> str:
  """The value that a chain of bitcasts begins with."""
  while body[name].opcode == 'bitcast':
    name = body[name].operands[0]
  return name


def users(body: Computation, name: str) -> Iterator[Operation]:
  """Operations that use a value, past those that only rename it."""
  for user, operation in body.items():
    if name in operation.operands:
      if operation.opcode == 'bitcast':
        yield from users(body, user)
      else:
        yield operation


def root(body: Computation) -> Operation:
  """The operation whose result is that of its computation."""
  (found,) = (operation for operation in body.values() if operation.root)
  return found


class Program:
  """The computations of a module.

  Attributes:
    computations: operations by name, of each computation.
    entry: name of the computation that the program is.
  """

  def __init__(self, hlo: str) -> None:
    """Reads the text of a compiled module."""
    self.computations: dict[str, Computation] = {}
    self.entry = ''
    operations: Computation = {}
    for line in hlo.splitlines():
      if header := _HEADER.match(line):
        operations = self.computations[header.group(2)] = {}
        self.entry = header.group(2) if header.group(1) else self.entry
      elif found := _INSTRUCTION.match(line):
        is_root, name, shape, opcode, rest = found.groups()
        inside, rest = _split(rest)
        operations[name] = Operation(
          shape, opcode, inside, rest, is_root is not None
        )

  def trips(self, loop: Operation) -> int:
    """How often a loop runs; 1 if that is not known.

    The compiler of CPUs says it. That of TPUs does not: there the condition
    compares a counter with a constant, and the body adds another one. Counters
    of JAX's loops begin with 0.
    """
    if known := _TRIPS.search(loop.rest):
      return int(known.group(1))
    (name,) = _CONDITION.findall(loop.rest)
    condition = self.computations[name]
    compare = root(condition)
    if compare.opcode != 'compare' or 'direction=LT' not in compare.rest:
      return 1
    counter, limit = (
      condition[source(condition, operand)] for operand in compare.operands
    )
    index = re.search(r'index=(\d+)', counter.rest)
    if limit.opcode != 'constant' or index is None:
      return 1
    step = self._step(self.computations[loop.body], int(index.group(1)))
    return -(-int(limit.inside) // step) if step else 1

  def _step(self, body: Computation, index: int) -> int:
    """What the body of a loop adds to a counter; 0 if that is not known."""
    result, step = root(body), 0
    if result.opcode != 'tuple':
      return 0
    operation = body[source(body, result.operands[index])]
    while operation.opcode == 'add':
      terms = [body[source(body, name)] for name in operation.operands]
      constants = [term for term in terms if term.opcode == 'constant']
      others = [term for term in terms if term.opcode != 'constant']
      if len(constants) != 1:
        return 0
      step += int(constants[0].inside)
      (operation,) = others
    return step if f'index={index}' in operation.rest else 0
