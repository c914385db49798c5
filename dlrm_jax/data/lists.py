"""Sets of users and items, and lists to rank.

A list is consecutive examples, the positive first, then candidates. An example
of weight 0 is left out: it pads its list, or is the positive once more. A long
list is cut into pieces of equal length, each of which begins with
the positive again, so that no batch has to hold a whole list.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

IMPLICIT = 'implicit'
"""The kind (`Prepared.details`) of sets of users and their items."""

USER, ITEM = 'user', 'item'
"""The columns of such a set, in this order."""


class Lists(NamedTuple):
  """How the examples of a split or a file are lists.

  Attributes:
    length: number of examples of a piece.
    pieces: number of consecutive pieces of a list.
  """

  length: int
  pieces: int = 1

  def batch_size(self, most: int, parts: int) -> int:
    """Number of examples of a batch that each of some parts has pieces of.

    Args:
      most: upper bound, which holds unless the smallest batch is larger.
      parts: number of devices or processes, which get equal parts.

    >>> Lists(100).batch_size(16_384, 8)
    16000
    """
    least = self.length * parts
    return max(1, most // least) * least


def lists_of(details: Mapping[str, Any], split: str) -> Lists | None:
  """The lists of a split; None if its examples are none.

  Args:
    details: account of the making of a set (`Prepared.details`).
    split: name of the split.
  """
  length = details.get('lists', {}).get(split)
  return Lists(length) if length else None
