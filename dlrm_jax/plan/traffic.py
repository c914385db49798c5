"""Bytes that a compiled step moves between a chip's memory and its cores.

    text = jax.jit(step).lower(...).compile().as_text()
    memory_bytes(text)  # bytes read and written by a chip in a step
    products(text)      # operations of its matrix products

An operation outside of fusions reads its operands and writes its results once.
Arrays in the on-chip memory of a TPU, whose layout says so (`S(1)`), cost
nothing. Of an array that is only gathered from, the gathered rows count; of one
that is scattered into, the rows that change, read and written. A loop counts as
often as the compiler says that it runs, else once; of a conditional its largest
branch. Loops in the scope `overflow` usually make no trip and count nothing.

`cost_analysis()` of JAX says other numbers: its bytes are those of the on-chip
memory, too, and it counts the body of every loop once.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from dlrm_jax.hlo import shape_bytes

_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)')
_ON_CHIP = re.compile(r'\w+\[[\d,]*\]\{[^{}]*S\([1-9]\d*\)[^{}]*\}')
_NAME = re.compile(r'%([\w.-]+)')
_CALLED = re.compile(r'(?:calls|to_apply)=%?([\w.-]+)')
_BODY = re.compile(r'body=%?([\w.-]+)')
_CONDITION = re.compile(r'condition=%?([\w.-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(
  r'(?:branch_computations=\{([^}]*)\}'
  r'|true_computation=(\S+), false_computation=(\S+?)[,\s])'
)
_SCOPE = re.compile(r'op_name="([^"]*)"')
_FREE = frozenset(
  (
    *('after-all', 'bitcast', 'constant', 'get-tuple-element', 'opt-barrier'),
    *('parameter', 'partition-id', 'replica-id', 'tuple'),
  )
)
"""Opcodes that move nothing."""
_SLICED = frozenset(('gather', 'dynamic-slice'))
_CHANGED = frozenset(('scatter', 'dynamic-update-slice'))


@dataclasses.dataclass(frozen=True)
class _Operation:
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
  def size(self) -> int:
    """Bytes of the result outside of the on-chip memory."""
    return shape_bytes(_ON_CHIP.sub('', self.shape))


_Computation = dict[str, _Operation]


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


def _read(hlo: str) -> tuple[dict[str, _Computation], str]:
  """The computations of a module, and the name of its entry."""
  computations: dict[str, _Computation] = {}
  operations: _Computation = {}
  entry = ''
  for line in hlo.splitlines():
    if header := _HEADER.match(line):
      operations = computations[header.group(2)] = {}
      entry = header.group(2) if header.group(1) else entry
    elif found := _INSTRUCTION.match(line):
      root, name, shape, opcode, rest = found.groups()
      inside, rest = _split(rest)
      operations[name] = _Operation(
        shape=shape,
        opcode=opcode,
        inside=inside,
        rest=rest,
        root=root is not None,
      )
  return computations, entry


def _branches(rest: str) -> list[str]:
  """Computations of a conditional, from the text after its operands."""
  (found,) = _BRANCHES.findall(rest)
  return _NAME.findall(' '.join(found))


def _users(body: _Computation, name: str) -> Iterator[_Operation]:
  """Operations of a fusion that use a value, past those that only rename it."""
  for user, operation in body.items():
    if name in operation.operands:
      if operation.opcode == 'bitcast':
        yield from _users(body, user)
      else:
        yield operation


def _source(body: _Computation, name: str) -> str:
  """The value that a chain of bitcasts begins with."""
  while body[name].opcode == 'bitcast':
    name = body[name].operands[0]
  return name


def _rows_of(body: _Computation, name: str) -> int | None:
  """Bytes of the rows that a fusion reads of an operand; None: all of it."""
  users = list(_users(body, name))
  if users and all(
    user.opcode in _SLICED | _CHANGED
    and _source(body, user.operands[0]) == name
    for user in users
  ):
    # A row that changes is read here, and written as a part of the result.
    return sum(_rows(body, user) for user in users)
  return None


def _rows(body: _Computation, operation: _Operation) -> int:
  """Bytes of the rows that a gather reads or a scatter changes."""
  if operation.opcode in _SLICED:
    return shape_bytes(operation.shape)
  at = 1 if operation.opcode == 'dynamic-update-slice' else -1
  return shape_bytes(body[operation.operands[at]].shape)


def _root(body: _Computation) -> _Operation:
  """The operation whose result is that of its computation."""
  (root,) = (operation for operation in body.values() if operation.root)
  return root


def _written(body: _Computation) -> int | None:
  """Bytes of the rows that a fusion writes; None: its whole result."""
  root = _root(body)
  if root.opcode == 'bitcast':
    root = body[_source(body, root.operands[0])]
  return _rows(body, root) if root.opcode in _CHANGED else None


def _dims(shape: str) -> list[int]:
  """Sizes of the axes of the first array in the text of a type.

  >>> _dims('f32[2,3]{1,0:T(8,128)}')
  [2, 3]
  """
  dims = shape[shape.index('[') + 1 : shape.index(']')]
  return [int(n) for n in dims.split(',') if n]


def _window(rest: str, field: str, axes: int, default: str) -> list[str]:
  """A field of a convolution's window, for each of its axes."""
  found = re.search(rf'window=\{{[^}}]*\b{field}=([\dx_-]+)', rest)
  return found.group(1).split('x') if found else [default] * axes


def _convolution(body: _Computation, operation: _Operation) -> int:
  """Operations of a convolution, which matrix products of TPUs are.

  A position of the window counts where it is on a value of the operand, and not
  on padding or between dilated values: products of batches are so written.
  """
  rest = operation.rest
  (labels,) = re.findall(r'dim_labels=(\w+)_(\w+)->(\w+)', rest)
  names = *operation.operands[:2], None
  lhs, rhs, out = (
    dict(zip(axes, _dims(body[n].shape if n else operation.shape), strict=True))
    for axes, n in zip(labels, names, strict=True)
  )
  spatial = [axis for axis in labels[0] if axis.isdigit()]
  fields = (('stride', '1'), ('pad', '0_0'), ('lhs_dilate', '1'))
  fields += (('rhs_dilate', '1'),)
  windows = [_window(rest, f, len(spatial), x) for f, x in fields]
  count = 2 * out['b'] * out['f'] * rhs['i']
  for axis, stride, pad, spread, apart in zip(spatial, *windows, strict=True):
    at = np.add.outer(
      np.arange(out[axis]) * int(stride) - int(pad.split('_')[0]),
      np.arange(rhs[axis]) * int(apart),
    )
    inside = (at >= 0) & (at < (lhs[axis] - 1) * int(spread) + 1)
    count *= int((inside & (at % int(spread) == 0)).sum())
  groups = re.search(r'batch_group_count=(\d+)', rest)
  return count // int(groups.group(1)) if groups else count


def _product(body: _Computation, operation: _Operation) -> int:
  """Operations of a matrix product; 0 for anything else."""
  if operation.opcode == 'convolution':
    return _convolution(body, operation)
  if operation.opcode != 'dot':
    return 0
  (axes,) = re.findall(r'lhs_contracting_dims=\{([\d,]*)\}', operation.rest)
  lhs = _dims(body[operation.operands[0]].shape)
  summed = math.prod(lhs[int(axis)] for axis in axes.split(',') if axis)
  return 2 * math.prod(_dims(operation.shape)) * summed


class _Module:
  """Bytes and products of the operations of a module."""

  def __init__(self, computations: Mapping[str, _Computation]) -> None:
    self._computations = computations

  def products(self, name: str, loops: bool) -> int:
    """Operations of the products of a computation and of those it calls."""
    count = 0
    body = self._computations[name]
    for operation in body.values():
      count += _product(body, operation)
      opcode, rest = operation.opcode, operation.rest
      if opcode == 'while':
        (inner,) = _BODY.findall(rest)
        count += self.products(inner, loops) * (
          self._trips(rest) if loops else 1
        )
      elif opcode in ('fusion', 'call', 'async-start'):
        for inner in _CALLED.findall(rest):
          count += self.products(inner, loops)
      elif opcode == 'conditional':
        count += max(self.products(x, loops) for x in _branches(rest))
    return count

  def of_computation(self, name: str) -> int:
    """Bytes of all operations of a computation."""
    body = self._computations[name]
    return sum(
      self._of_operation(body, operation) for operation in body.values()
    )

  def _of_operation(self, body: _Computation, operation: _Operation) -> int:
    opcode, rest = operation.opcode, operation.rest
    if opcode in _FREE or opcode.endswith('-done'):
      return 0
    if opcode == 'while':
      scope = _SCOPE.search(rest)
      if scope and 'overflow' in scope.group(1).split('/'):
        return 0
      (inner,) = _BODY.findall(rest)
      return self.of_computation(inner) * self._trips(rest)
    if opcode == 'conditional':
      return max(self.of_computation(name) for name in _branches(rest))
    if opcode in ('call', 'async-start'):
      (inner,) = _CALLED.findall(rest)
      return self.of_computation(inner)
    if opcode == 'fusion':
      return self._of_fusion(body, operation)
    return self._of_plain(body, operation)

  def _trips(self, rest: str) -> int:
    """How often a loop runs, from the text after its operands; 1 if unknown.

    The compiler of TPUs does not say it, so that the condition has to: it
    compares a counter, which begins with 0, with a constant.
    """
    if known := _TRIPS.search(rest):
      return int(known.group(1))
    (condition,) = _CONDITION.findall(rest)
    body = self._computations[condition]
    root = _root(body)
    if root.opcode == 'compare' and 'direction=LT' in root.rest:
      limit = body[_source(body, root.operands[1])]
      if limit.opcode == 'constant':
        return int(limit.inside)
    return 1

  def _of_plain(self, body: _Computation, operation: _Operation) -> int:
    """Bytes of an operation that is no fusion."""
    if operation.opcode in _SLICED:
      others = operation.operands[1:]
      read = _rows(body, operation)
      return read + operation.size + sum(body[name].size for name in others)
    if operation.opcode in _CHANGED:
      others = operation.operands[1:]
      changed = _rows(body, operation)
      return 2 * changed + sum(body[name].size for name in others)
    if operation.opcode.endswith('-start'):  # its result holds its operand
      return operation.size
    return operation.size + sum(body[name].size for name in operation.operands)

  def _of_fusion(self, body: _Computation, operation: _Operation) -> int:
    (called,) = _CALLED.findall(operation.rest)
    inner = self._computations[called]
    read = 0
    for name, parameter in inner.items():
      if parameter.opcode != 'parameter':
        continue
      whole = body[operation.operands[int(parameter.inside)]].size
      rows = _rows_of(inner, name)
      read += whole if rows is None else min(rows, whole)
    written = _written(inner)
    whole = operation.size
    return read + (whole if written is None else min(written, whole))


def memory_bytes(hlo: str) -> int:
  """Bytes that a chip reads from its memory and writes to it.

  Args:
    hlo: text of a compiled module.

  >>> text = '''HloModule jit_f
  ... %gathered (t: f32[1000,8], i: s32[4]) -> f32[4,8] {
  ...   %t = f32[1000,8]{1,0} parameter(0)
  ...   %i = s32[4]{0} parameter(1)
  ...   ROOT %g = f32[4,8]{1,0} gather(%t, %i), slice_sizes={1,8}
  ... }
  ... ENTRY %main (a: f32[1000,8], b: s32[4]) -> f32[4,8] {
  ...   %a = f32[1000,8]{1,0} parameter(0)
  ...   %b = s32[4]{0} parameter(1)
  ...   %f = f32[4,8]{1,0:S(1)} fusion(%a, %b), kind=kLoop, calls=%gathered
  ...   ROOT %c = f32[4,8]{1,0} copy(%f)
  ... }'''
  >>> memory_bytes(text)  # 4 rows, 4 ids, and 4 rows written
  272
  """
  computations, entry = _read(hlo)
  return _Module(computations).of_computation(entry)


def products(hlo: str, loops: bool = True) -> int:
  """Operations of the matrix products of a module, two for each summand.

  Args:
    hlo: text of a compiled module.
    loops: whether the body of a loop counts as often as it runs, or once.
  """
  computations, entry = _read(hlo)
  return _Module(computations).products(entry, loops)
