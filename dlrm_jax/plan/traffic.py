"""Bytes that a compiled step moves between a chip's memory and its cores.

    text = jax.jit(step).lower(...).compile().as_text()
    memory_bytes(Program(text))  # bytes that a chip reads and writes in a step

An operation outside of fusions reads its operands and writes its results once.
Arrays in the on-chip memory of a TPU, whose layout says so (`S(1)`), cost
nothing. Of an array that is only gathered or sliced from, the rows count that
are read; of one that is changed in place, those that change: a scatter reads
and writes them, an update of a slice writes them. A loop counts as often as it
runs, or once where that is not known; of a conditional its largest branch.
Loops in the scope `overflow` usually make no trip and count nothing.

`bytes accessed` of JAX's `cost_analysis()` is another number: it has the bytes
of the on-chip memory, too, and counts the body of every loop once.
"""

from dlrm_jax.hlo import shape_bytes
from dlrm_jax.plan.program import (
  Computation,
  Operation,
  Program,
  off_chip,
  root,
  source,
  users,
)

_FREE = frozenset(
  (
    *('after-all', 'async-update', 'bitcast', 'constant', 'get-tuple-element'),
    *('opt-barrier', 'parameter', 'partition-id', 'replica-id', 'tuple'),
  )
)
"""Opcodes that move nothing."""
_READ = frozenset(('gather', 'dynamic-slice', 'slice'))
_CHANGED = frozenset(('scatter', 'dynamic-update-slice'))
_SLICE_STARTS = frozenset(('slice-start', 'dynamic-slice-start'))


def _rows(body: Computation, operation: Operation) -> int:
  """Bytes of the rows that an operation takes of its operand or changes."""
  if operation.opcode in _READ:
    return shape_bytes(operation.shape)
  at = 1 if operation.opcode == 'dynamic-update-slice' else -1
  return shape_bytes(body[operation.operands[at]].shape)


def _rows_read(body: Computation, operation: Operation) -> int:
  """Bytes that an operation reads of the operand that it takes rows of."""
  if operation.opcode == 'dynamic-update-slice':
    return 0  # it writes over them
  return _rows(body, operation)


def _read_of(body: Computation, name: str) -> int | None:
  """Bytes that a fusion reads of a parameter; None: all of it."""
  found = list(users(body, name))
  if found and all(
    user.opcode in _READ | _CHANGED and source(body, user.operands[0]) == name
    for user in found
  ):
    return sum(_rows_read(body, user) for user in found)
  return None


def _written_of(body: Computation, name: str) -> int | None:
  """Bytes that a fusion writes of one of its results; None: all of it."""
  result = body[source(body, name)]
  if result.opcode in _CHANGED:
    changed = source(body, result.operands[0])
    if body[changed].opcode == 'parameter':
      return _rows(body, result)
  return None


class _Traffic:
  """Bytes of the operations of a program."""

  def __init__(self, program: Program) -> None:
    self._program = program

  def of_computation(self, name: str) -> int:
    """Bytes of all operations of a computation."""
    body = self._program.computations[name]
    return sum(self.of_operation(body, x) for x in body.values())

  def of_operation(self, body: Computation, operation: Operation) -> int:
    """Bytes of an operation, and of what it calls."""
    opcode = operation.opcode
    if opcode in _FREE or opcode.endswith('-done'):
      return 0
    if opcode == 'while':
      if operation.overflows:
        return 0
      trips = self._program.trips(operation)
      return self.of_computation(operation.body) * trips
    if opcode == 'conditional':
      return max(self.of_computation(name) for name in operation.branches)
    if opcode in ('call', 'async-start'):
      return sum(self.of_computation(name) for name in operation.called)
    if opcode == 'fusion':
      return self._of_fusion(body, operation)
    if opcode == 'custom-call' and 'AllocateBuffer' in operation.rest:
      return 0
    return self._of_plain(body, operation)

  def _of_plain(self, body: Computation, operation: Operation) -> int:
    """Bytes of an operation that is no fusion."""
    opcode = operation.opcode
    if opcode in _SLICE_STARTS:  # its result: the operand, the slice
      whole, part, *_ = operation.arrays
      return bool(off_chip(whole)) * shape_bytes(part) + off_chip(part)
    if opcode.endswith('-start'):  # its result holds its operand
      return operation.size
    read = [body[name].size for name in operation.operands]
    if opcode in _READ:
      return (
        min(_rows(body, operation), read[0]) + operation.size + sum(read[1:])
      )
    if opcode in _CHANGED:
      rows = _rows_read(body, operation) + _rows(body, operation)
      return min(rows, 2 * read[0]) + sum(read[1:])
    return operation.size + sum(read)

  def _of_fusion(self, body: Computation, operation: Operation) -> int:
    (called,) = operation.called
    inner = self._program.computations[called]
    count = 0
    for name, parameter in inner.items():
      if parameter.opcode == 'parameter':
        whole = body[operation.operands[int(parameter.inside)]].size
        read = _read_of(inner, name)
        count += whole if read is None else min(read, whole)
    result = root(inner)
    names = [name for name, x in inner.items() if x is result]
    if result.opcode == 'tuple':
      names = list(result.operands)
    for name, array in zip(names, operation.arrays, strict=False):
      written = _written_of(inner, name)
      whole = off_chip(array)
      count += whole if written is None else min(written, whole)
    return count


def memory_bytes(program: Program) -> int:
  """Bytes that a chip reads from its memory and writes to it.

  Args:
    program: a compiled module.

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
  >>> memory_bytes(Program(text))  # 4 rows, 4 ids, and 4 rows written
  272
  """
  return _Traffic(program).of_computation(program.entry)
