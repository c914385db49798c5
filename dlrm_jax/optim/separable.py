"""Whether an Optax transform treats each row of a table by itself.

`rowwise` runs a transform on the touched rows only, which is right only if
the update of a row does not depend on other rows or on their number. Clipping
by a global norm, factored second moments (Adafactor) or trust ratios (LAMB)
do depend on them, and would go wrong without an error.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlrm_jax.errors import InputError
from dlrm_jax.rows import Pytree

# A large table, for the shapes of a state: Optax factors the moments of arrays
# from 128 x 128 on.
_LARGE = 1024, 256
# A small example: tables by their number of rows, and the rows that remain in
# another order when rows 1 and 3 of the first are left out.
_ALL = {'a': range(5), 'b': range(3)}
_SOME = {'a': [4, 0, 2], 'b': [1, 2, 0]}
# Size of the gradients of rows 1 and 3 in each step.
_STEPS = 1e-4, 1e8, np.nan


def check_separable(tx: optax.GradientTransformation) -> None:
  """Checks a transform on a small example, with some rows and without them.

  Raises:
    InputError: the update of a row depends on other rows.
  """
  # Whatever settings the caller trains with.
  with (
    jax.debug_nans(False),  # one step has NaN on purpose
    jax.numpy_dtype_promotion('standard'),
    jax.numpy_rank_promotion('allow'),
  ):
    try:
      why = _why_not(tx)
    except jax.errors.JaxRuntimeError:
      raise  # the device's own error, not the transform's
    except Exception as error:  # whatever a transform raises
      first = next(iter(str(error).splitlines()), '')
      why = f'it fails on rows alone ({type(error).__name__}: {first})'
  if why:
    raise InputError(
      f'optimizer of tables: {why}; expected a transform that treats each row '
      f'by itself, such as SGD, Adagrad or Adam'
    )


def _why_not(tx: optax.GradientTransformation) -> str:
  """What is wrong; empty if the transform is row-separable."""
  large = {'a': jax.ShapeDtypeStruct(_LARGE, jnp.float32)}
  shapes: list[tuple[int, ...]] = []
  optax.tree.map_params(
    tx.init, lambda x: shapes.append(x.shape), jax.eval_shape(tx.init, large)
  )
  for shape in shapes:
    if shape not in (_LARGE, _LARGE[:1]):
      return f'its state of a table of {_LARGE} has the shape {shape}'
  # One program: its operations would be compiled one after the other.
  run = jax.jit(lambda: (_run(tx, _ALL), _run(tx, _SOME))).lower().compile()
  for (updates, state), some in zip(*jax.device_get(run()), strict=True):
    updates = {name: x[np.array(_SOME[name])] for name, x in updates.items()}
    state = optax.tree.map_params(
      tx.init, lambda x, rows: x[np.array(rows)], state, _SOME
    )
    if not _equal(updates, some[0]):
      return 'the update of a row depends on other rows'
    if not _equal(state, some[1]):
      return 'its state depends on several rows at once'
  return ''


def _run(
  tx: optax.GradientTransformation, rows: Mapping[str, Sequence[int]]
) -> list[tuple[Pytree, Pytree]]:
  """Updates and state of each of a few steps with some rows."""
  rng = np.random.default_rng(0)

  def draw(size: float) -> dict[str, jax.Array]:
    all_rows = {
      name: rng.normal(size=(len(r), 3)).astype(np.float32)
      for name, r in _ALL.items()
    }
    all_rows['a'][[1, 3]] *= size
    return {
      name: jnp.asarray(all_rows[name][list(r)]) for name, r in rows.items()
    }

  tables, steps = draw(1.0), []
  state = tx.init(tables)
  for size in _STEPS:
    updates, state = tx.update(draw(size), state, tables)
    steps.append((updates, state))
  return steps


def _equal(first: Pytree, second: Pytree) -> bool:
  """Whether trees have equal shapes, and equal values but for rounding."""
  if jax.tree.map(np.shape, first) != jax.tree.map(np.shape, second):
    return False
  same = jax.tree.map(
    lambda x, y: np.allclose(x, y, 1e-4, 1e-6, equal_nan=True), first, second
  )
  return all(jax.tree.leaves(same))
