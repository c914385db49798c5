"""Kernels in C for lookups and updates on CPUs, called through XLA's FFI.

They are compiled when the package is installed, where there is a C compiler,
and are used where they are there. Without them, and on other devices, XLA
compiles the same from `rows`, which is the reference: lookups without weights
of rows of float32, float16 and bfloat16 are equal bit for bit, all else to
rounding. Two more multiply: integers of 64 bits, for `quantization.int64`,
whose reference is exact, too; and kernels of mostly zeros, for `models.sparse`,
which without them stay dense.
"""

import contextlib
import contextvars
import ctypes
import enum
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

VERSION = 3
"""Of the calls; a library of another version is not used."""

_VARIABLE, _OFF = 'DLRM_JAX_NATIVE', ('0', 'false', 'no', 'off')
_POOL, _UPDATE, _MULTIPLY, _SPARSE = (
  f'dlrm_jax_{name}_v{VERSION}'
  for name in ('pool', 'update', 'multiply', 'sparse')
)
_allowed = contextvars.ContextVar('native kernels', default=True)


class Library(NamedTuple):
  """The library, or why it is not used.

  Attributes:
    path: the file, or None.
    why_not: empty where it is used.
  """

  path: Path | None
  why_not: str


@functools.cache
def library() -> Library:
  """Loads the library once, and tells XLA of its kernels."""
  if (given := os.environ.get(_VARIABLE, '1')).lower() in _OFF:
    return Library(None, f'{_VARIABLE}={given} is set')
  path = Path(__file__).with_name('_kernels.so')
  if not path.exists():
    return Library(
      None,
      'they were not compiled when the package was installed, mostly for want '
      'of a C compiler; "pip install -v --force-reinstall --no-deps '
      '--no-cache-dir dlrm_jax" compiles them, or says why not',
    )
  try:
    found = ctypes.CDLL(str(path))
    version = found.dlrm_jax_version()
  except (OSError, AttributeError) as error:
    return Library(path, f'{path} cannot be loaded: {error}')
  if version != VERSION:
    return Library(
      path,
      f'{path} has version {version}, and {VERSION} is needed; install '
      f'dlrm_jax again',
    )
  jax.default_backend()  # With no backend yet, JAX would fail to make one.
  try:
    for target, function in (
      (_POOL, found.dlrm_jax_pool),
      (_UPDATE, found.dlrm_jax_update),
      (_MULTIPLY, found.dlrm_jax_multiply),
      (_SPARSE, found.dlrm_jax_sparse),
    ):
      jax.ffi.register_ffi_target(
        target, jax.ffi.pycapsule(function), platform='cpu'
      )
  except jax.errors.JaxRuntimeError as error:
    return Library(path, f'this jaxlib does not take them: {error}')
  return Library(path, '')


def in_use() -> bool:
  """Whether programs that are traced now have native kernels on CPUs."""
  return _allowed.get() and not library().why_not


@contextlib.contextmanager
def left_out() -> Iterator[None]:
  """Programs that are traced here have none: other machines can run them.

  That is what this thread traces: not a function that was compiled before, nor
  what other threads trace.
  """
  token = _allowed.set(False)
  try:
    yield
  finally:
    _allowed.reset(token)


Groups = Sequence[tuple[int, int]]
"""The static layout of the rows of an example: consecutive groups of bags, each
(number of bags, rows of a bag)."""


def _attributes(groups: Groups) -> dict[str, np.ndarray]:
  """A layout as the kernels take it."""
  counts, lengths = np.array(groups, np.int64).reshape(-1, 2).T.copy()
  return {'counts': counts, 'lengths': lengths}


class RowKind(enum.IntEnum):
  """How a stack keeps its rows, as rows.h numbers it."""

  FLOAT32 = 0
  FLOAT16 = 1
  BFLOAT16 = 2
  INT8 = 3
  INT4 = 4
  INT2 = 5


def pool(
  kind: RowKind,
  arrays: Sequence[jax.Array],
  rows: jax.Array,
  weights: jax.Array | None,
  groups: Groups,
  dim: int,
) -> jax.Array:
  """Sums of bags of rows.

  Args:
    kind: how the rows are kept.
    arrays: of the stack, packed or not. Float32 has its values, f32[R, D];
      float16 and bfloat16 have their bits, u16[R, D]. The others have codes
      u8[R, D * bits / 8], the first one in the lowest bits, and what they stand
      for, code * scale + bias: these two as f32[R, 2], or, with 4 and 2 bits,
      as the bits of float16, u16[R, 2].
    rows: i32[B, K]; those that do not exist are zeros.
    weights: f32[B, K]; None: all are 1.
    groups: the layout of the K rows, as G bags.
    dim: D.

  Returns:
    f32[B, G, D].
  """
  bags = sum(count for count, _ in groups)
  shape = jax.ShapeDtypeStruct((len(rows), bags, dim), jnp.float32)
  operands = [*arrays, rows, *([] if weights is None else [weights])]
  call = jax.ffi.ffi_call(_POOL, shape, vmap_method='sequential')
  return call(*operands, kind=np.int32(kind), **_attributes(groups))


class Kind(enum.IntEnum):
  """How a row moves, as update.c numbers it."""

  SGD = 0
  ADAGRAD = 1
  ROWWISE_ADAGRAD = 2
  ADAM = 3


def update(
  kind: Kind,
  stacks: Sequence[jax.Array],
  rows: jax.Array,
  weights: jax.Array | None,
  grads: jax.Array,
  numbers: jax.Array,
  groups: Groups,
) -> list[jax.Array]:
  """Updates the rows of a stack and of its state, in place.

  Args:
    kind: the optimizer.
    stacks: f32[R, D], packed or not, and the arrays of its state.
    rows: i32[B, K]; those that do not exist are left out.
    weights: f32[B, K]; None: all are 1.
    grads: f32[B, G, D], gradients of the sums of bags.
    numbers: f32[8]: minus the learning rate; eps; of the two moments of Adam
      the decays, 1 minus these, and the corrections of their bias.
    groups: the layout of the K rows, as G bags.

  Returns:
    The new arrays.
  """
  operands = [*stacks, rows, grads, numbers]
  if weights is not None:
    operands.append(weights)
  call = jax.ffi.ffi_call(
    _UPDATE,
    [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in stacks],
    input_output_aliases={i: i for i in range(len(stacks))},
  )
  attributes = _attributes(groups)
  return list(call(*operands, kind=np.int32(kind), **attributes))


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
  """The product of matrices of 64-bit integers, modulo 2^64.

  An integer is two words of 32 bits, the low one first.

  Args:
    a: u32[M, 2 K]; K is at least 1.
    b: u32[K, 2 N].

  Returns:
    u32[M, 2 N].
  """
  shape = jax.ShapeDtypeStruct((len(a), b.shape[1]), jnp.uint32)
  return jax.ffi.ffi_call(_MULTIPLY, shape, vmap_method='sequential')(a, b)


STRIP = 16
"""Outputs of a strip, as sparse.c has them."""


def sparse(
  x: jax.Array,
  weights: jax.Array,
  inputs: np.ndarray,
  starts: np.ndarray,
  width: int,
) -> jax.Array:
  """The product of a batch and a kernel of mostly zeros.

  The outputs are in groups of one, or of `STRIP` that lie side by side. Group g
  has the weights `starts[g]` to `starts[g + 1]`.

  Args:
    x: f32[B, in].
    weights: f32[n], or f32[n, STRIP]; those beyond the last output are 0.
    inputs: i32[n], what is multiplied by each.
    starts: i32[groups + 1].
    width: number of outputs.

  Returns:
    f32[B, width].
  """
  shape = jax.ShapeDtypeStruct((len(x), width), jnp.float32)
  call = jax.ffi.ffi_call(_SPARSE, shape, vmap_method='sequential')
  return call(x, weights, inputs, starts)
