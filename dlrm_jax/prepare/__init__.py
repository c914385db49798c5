"""From raw logs to prepared data sets; `python -m dlrm_jax.prepare`."""

import os
from typing import Any

from dlrm_jax.callable_module import make_callable


def prepare(kind: str, output: str | os.PathLike[str], **options: Any) -> None:
  """Prepares a data set and prints a summary, as the command does.

  Args:
    kind: 'criteo', 'raw', 'movielens' or 'implicit'.
    output: folder of the set.
    **options: those of the command without dashes, such as
      `input=['train.txt']`, `splits='train=0.9,validation=0.1'`,
      `overwrite=True`.

  Raises:
    InputError: an option or a file is wrong.
  """
  from dlrm_jax.prepare.__main__ import options_of, prepared

  prepared(options_of(kind, {'output': output, **options}))


make_callable(__name__, prepare)
