"""What threads do while the main one waits: imports, and compilation."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from dlrm_jax import sharding
from dlrm_jax.cluster import agreement
from dlrm_jax.report.figures import load_matplotlib


def import_ahead() -> None:
  """Begins to import what draws the report; who draws meanwhile waits for it.

  TFDS must have been imported before, where it is needed: while it is, imports
  of other threads fail.
  """
  if agreement.first():
    threading.Thread(target=load_matplotlib, name='imports').start()


def compile_ahead(
  function: jax.stages.Wrapped, *arguments: Any
) -> Callable[..., Any]:
  """Begins to compile a function for the mesh in use.

  Args:
    function: by `jax.jit`.
    *arguments: shapes, dtypes and shardings of all that it will be called with.

  Returns:
    The function; a call waits for the compiler, and raises what it raised.
  """
  if jax.process_count() > 1:  # all must compile in the same order
    return function

  def compiled() -> jax.stages.Compiled:
    return function.lower(*arguments).compile()

  pool = ThreadPoolExecutor(1, 'compiler')
  found = pool.submit(sharding.for_thread(compiled))
  pool.shutdown(wait=False)
  return lambda *given: found.result()(*given)
