"""Matplotlib, imported when the first figure is drawn."""

import logging
from typing import Any


def load_matplotlib() -> Any:
  """The module, which says nothing of folders that it cannot write.

  It does its work without them.
  """
  logging.getLogger('matplotlib').setLevel(logging.ERROR)
  import matplotlib as mpl
  import matplotlib.figure

  return mpl
