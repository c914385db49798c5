"""What threads do ahead of the main one: compile, read, and import."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from dlrm_jax import sharding
from dlrm_jax.cluster import agreement
from dlrm_jax.report.figures import load_matplotlib

Result = TypeVar('Result')


def import_ahead() -> None:
  """Begins to import what draws the report; who draws meanwhile waits for it.

  TFDS must have been imported before, where it is needed: while it is, imports
  of other threads fail.
  """
  if agreement.first():
    threading.Thread(target=load_matplotlib, name='imports').start()


def ahead(work: Callable[[], Result], name: str) -> Callable[[], Result]:
  """Begins some work in a thread.

  Args:
    work: to be done for the mesh in use.
    name: of the thread.

  Returns:
    A function that waits for the result, and raises what the work raised.
  """
  pool = ThreadPoolExecutor(1, name)
  found = pool.submit(sharding.for_thread(work))
  pool.shutdown(wait=False)
  return found.result


def compile_ahead(
  function: jax.stages.Wrapped, *arguments: Any
) -> Callable[..., Any]:
  """Traces a function for the mesh in use, and begins to compile it.

  Args:
    function: by `jax.jit`.
    *arguments: shapes, dtypes and shardings of all that it will be called with.

  Returns:
    The function; a call waits for the compiler, and raises what it raised. What
    tracing raises is raised at once.
  """
  if jax.process_count() > 1:  # all must compile in the same order
    return function

  traced = function.trace(*arguments)  # here, where the caller's settings hold
  program = ahead(lambda: traced.lower().compile(), 'compiler')
  return lambda *given: program()(*given)
