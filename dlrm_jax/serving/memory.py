"""What values of a column became, so that only new values are encoded.

Prepare takes as long to encode one value as for thousands.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

_MOST_VALUES = 1 << 16
_MOST_BYTES = 1 << 23
"""A column forgets its values once it has more of them."""

Faults = dict[int, str]
"""What is wrong with some of the values, by their number."""


class Encoded(NamedTuple):
  """What values became.

  Attributes:
    arrays: an array for each thing that a value becomes.
    faults: what is wrong with some values, whose rows have no meaning.
  """

  arrays: list[np.ndarray]
  faults: Faults


class Memory:
  """What values of a column became."""

  def __init__(
    self,
    empty: Callable[[int], list[np.ndarray]],
    kind_of: Callable[[Any], Hashable],
    encode: Callable[[list[Any]], Encoded],
  ) -> None:
    """Remembers nothing yet.

    Args:
      empty: makes arrays of n values.
      kind_of: values of one kind are encoded together.
      encode: encodes them.
    """
    self._empty, self._kind_of, self._encode = empty, kind_of, encode
    self._clear()

  def _clear(self) -> None:
    self._slots: dict[Hashable, int] = {}
    self._arrays = self._empty(64)
    self._bytes = 0

  def __call__(self, keys: list[Any]) -> Encoded:
    """What values became, those seen before without encoding them."""
    if len(self._slots) > _MOST_VALUES or self._bytes > _MOST_BYTES:
      self._clear()
    slots = list(map(self._slots.get, keys))
    faults: Faults = {}
    if None in slots:
      unseen = (k for k, s in zip(keys, slots, strict=True) if s is None)
      wrong = self._learn(unseen)
      slots = [self._slots.get(key, 0) for key in keys]
      faults = {n: wrong[k] for n, k in enumerate(keys) if k in wrong}
    places = np.array(slots)
    return Encoded([array[places] for array in self._arrays], faults)

  def _learn(self, keys: Iterable[Any]) -> dict[Any, str]:
    """Encodes new values; returns the faults of those that are none."""
    kinds: dict[Hashable, list[Any]] = {}
    for key in dict.fromkeys(keys):
      kinds.setdefault(self._kind_of(key), []).append(key)
    wrong: dict[Any, str] = {}
    for of_kind in kinds.values():
      arrays, faults = self._encode(of_kind)
      wrong |= {of_kind[n]: fault for n, fault in faults.items()}
      first = len(self._slots)
      last = first + len(of_kind)
      if last > len(self._arrays[0]):
        grown = self._empty(2 * last)
        for new, old in zip(grown, self._arrays, strict=True):
          new[:first] = old[:first]
        self._arrays = grown
      good = [n for n in range(len(of_kind)) if n not in faults]
      for kept, found in zip(self._arrays, arrays, strict=True):
        kept[first : first + len(good)] = found[good]
      for slot, n in enumerate(good, first):
        self._slots[of_kind[n]] = slot
        self._bytes += _bytes_of(of_kind[n])
    return wrong


def _bytes_of(key: Any) -> int:
  if isinstance(key, tuple):
    return 64 + sum(map(_bytes_of, key))
  return 64 + (len(key) if isinstance(key, bytes) else 0)
