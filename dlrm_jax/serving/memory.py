"""What values of a column became, so that only new values are encoded.

Prepare takes as long to encode one value as for thousands.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

_MOST_VALUES = 1 << 16
_MOST_BYTES = 1 << 23  # with what they became
"""What a column remembers, about."""

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


class _Values:
  """Values with what they became.

  Attributes:
    slots: the place of each in the arrays.
    arrays: what they became; the last places are free.
  """

  def __init__(self, empty: Callable[[int], list[np.ndarray]]) -> None:
    self.slots: dict[Hashable, int] = {}
    self._empty, self.arrays = empty, empty(1)
    self._bytes = 0  # of the values themselves, about

  @property
  def full(self) -> bool:
    """Whether they are half of what may be remembered."""
    size = self._bytes + sum(array.nbytes for array in self.arrays)
    return 2 * len(self.slots) > _MOST_VALUES or 2 * size > _MOST_BYTES

  def add(self, keys: list[Any], arrays: list[np.ndarray]) -> None:
    """Adds values, and what each became."""
    first = len(self.slots)
    last = first + len(keys)
    if last > len(self.arrays[0]):
      grown = self._empty(2 * last)
      for new, old in zip(grown, self.arrays, strict=True):
        new[:first] = old[:first]
      self.arrays = grown
    for kept, found in zip(self.arrays, arrays, strict=True):
      kept[first:last] = found
    self.slots.update(zip(keys, range(first, last), strict=True))
    self._bytes += sum(map(_bytes_of, keys))


class Memory:
  """What values of a column became.

  Once there are too many, those that were not asked for of late are forgotten.
  """

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
    self._new, self._old = _Values(empty), _Values(empty)

  def has(self, keys: list[Any]) -> bool:
    """Whether what values became is known, so that none will be encoded."""
    new, old = self._new.slots, self._old.slots
    if self._new.full:
      old = new
    return all(key in new or key in old for key in keys)

  def __call__(self, keys: list[Any]) -> Encoded:
    """What values became, those seen before without encoding them."""
    if self._new.full:
      self._new, self._old = _Values(self._empty), self._new
    slots = list(map(self._new.slots.get, keys))
    faults: Faults = {}
    if None in slots:
      unseen = (k for k, s in zip(keys, slots, strict=True) if s is None)
      wrong = self._learn(dict.fromkeys(unseen))
      slots = [self._new.slots.get(key, 0) for key in keys]
      faults = {n: wrong[k] for n, k in enumerate(keys) if k in wrong}
    places = np.array(slots)
    return Encoded([array[places] for array in self._new.arrays], faults)

  def _learn(self, keys: Iterable[Any]) -> dict[Any, str]:
    """Finds or encodes values; returns the faults of those that are none."""
    known: list[Any] = []
    kinds: dict[Hashable, list[Any]] = {}
    for key in keys:
      if key in self._old.slots:
        known.append(key)
      else:
        kinds.setdefault(self._kind_of(key), []).append(key)
    places = [self._old.slots[key] for key in known]
    self._new.add(known, [array[places] for array in self._old.arrays])
    wrong: dict[Any, str] = {}
    for of_kind in kinds.values():
      arrays, faults = self._encode(of_kind)
      wrong |= {of_kind[n]: fault for n, fault in faults.items()}
      good = [n for n in range(len(of_kind)) if n not in faults]
      self._new.add(
        [of_kind[n] for n in good], [array[good] for array in arrays]
      )
    return wrong


def _bytes_of(key: Any) -> int:
  if isinstance(key, tuple):
    return 64 + sum(map(_bytes_of, key))
  return 64 + (len(key) if isinstance(key, bytes) else 0)
