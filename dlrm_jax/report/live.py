"""Curves of a run in a notebook, drawn while it trains."""

import importlib
import time
from collections.abc import Mapping
from typing import Any

from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.report import charts

_SHARE = 0.05
"""Part of the time that drawing may take."""


class Curves:
  """The charts of the report, of a run that is not over.

  They are one output of the notebook's cell, which each drawing replaces.
  """

  def __init__(
    self, references: Mapping[str, Mapping[str, float]], objective: Objective
  ) -> None:
    """Readies the drawing.

    Args:
      references: metrics to compare with, by name.
      objective: the metric that chooses the best checkpoint.

    Raises:
      InputError: this is no notebook.
    """
    try:
      self._display: Any = importlib.import_module('IPython.display')
      shell = importlib.import_module('IPython').get_ipython()
    except ImportError:
      shell = None
    if not hasattr(shell, 'kernel'):
      raise InputError('live=True draws in a notebook; leave it out here')
    self._references, self._objective = references, objective
    self._output: Any = None
    self._due = 0.0

  def draw(self, history: charts.History, last: bool = False) -> None:
    """Draws the history of a run, unless it did so a moment ago.

    Args:
      history: the lines of its log.
      last: whether the run ends, so that this drawing is due.
    """
    start = time.monotonic()
    if start < self._due and not last:
      return
    drawn = charts.training(history, self._references, self._objective)
    figures = [
      f'<figure style="flex:1 1 20em;max-width:30em;margin:.5em">'
      f'<figcaption>{title}</figcaption>{svg}</figure>'
      for title, svg in drawn.items()
    ]
    html = self._display.HTML(
      f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'
    )
    if self._output is None:
      self._output = self._display.display(html, display_id=True)
    else:
      self._output.update(html)
    end = time.monotonic()
    self._due = end + (end - start) / _SHARE
