"""The LRU stack: ids -> stack distances, and stack distances -> ids.

All ids are on a stack, the one used last on top. The *stack distance* of an
access is the depth of its id before the access: 1 on top, or 0 if the id was
never used before. A cache of the C ids used last has an id if and only if
1 <= distance <= C, so the distances give the hit rates of all cache sizes
(Mattson and others, "Evaluation techniques for storage hierarchies", 1970).

Both directions are log2(n) passes over whole arrays, without a loop over the
accesses.
"""

import numpy as np

_HALF = 32


def _previous(ids: np.ndarray) -> np.ndarray:
  """Position of the previous access to the same id, i64[n]; -1 if none."""
  order = np.argsort(ids, kind='stable')
  again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
  previous = np.full(len(ids), -1)
  previous[order[again + 1]] = order[again]
  return previous


def _smaller_before(permutation: np.ndarray) -> np.ndarray:
  """For each number, how many smaller numbers are before it.

  A radix sort from the highest bit on. At each bit, the zeros of a group move
  before its ones, and each one counts the zeros that were before it already.

  Args:
    permutation: i64[2^k] of 0 ... 2^k - 1.

  Returns:
    i64[2^k]; entry x is the count of number x.
  """
  bits = len(permutation).bit_length() - 1
  packed = permutation  # number in the low 32 bits, its count in the high ones
  for bit in reversed(range(bits)):
    one = (packed >> bit & 1).astype(bool)
    places = np.flatnonzero(one)
    inside = (places & (2 << bit) - 1) - (
      np.arange(len(places)) & (1 << bit) - 1
    )
    ones = (packed[places] + (inside << _HALF)).reshape(-1, 1 << bit)
    zeros = packed[~one].reshape(-1, 1 << bit)
    packed = np.concatenate([zeros, ones], axis=1).ravel()
  return packed >> _HALF


def stack_distances(ids: np.ndarray) -> np.ndarray:
  """The stack distance of every access.

  With p the previous access to the same id, it is one more than the number of
  accesses after p whose own previous access is not after p, so that each id
  counts once.

  >>> stack_distances(np.array([7, 8, 7, 7, 9, 8])).tolist()
  [0, 0, 2, 1, 0, 3]

  Args:
    ids: ids of any integer type, [n] with n < 2^31.

  Returns:
    Distances, i64[n]; 0 for ids not used before.
  """
  n = len(ids)
  previous = _previous(ids)
  again = np.flatnonzero(previous >= 0)
  # Rank of each access by its previous access; accesses without one come first,
  # and the numbers that fill up a power of two come last.
  used = np.zeros(n, np.int64)
  used[previous[again]] = 1
  rank = np.arange(1 << max(n - 1, 0).bit_length())
  rank[np.flatnonzero(previous < 0)] = np.arange(n - len(again))
  rank[again] = n - len(again) + np.cumsum(used)[previous[again]] - 1
  distances = np.zeros(n, np.int64)
  counts = _smaller_before(rank)[rank[again]]
  distances[again] = counts - previous[again]
  return distances


def _merge(
  time: np.ndarray, depth: np.ndarray, level: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Merges pairs of blocks of 2^level accesses.

  An id of the second block is either on top of the stack, among the ids that
  the first block used, or below these.

  Args:
    time: last access of each id in each block, ascending, i64[m].
    depth: depths of these ids in the stack before their block, i64[m].
    level: logarithm of the size of a block.

  Returns:
    The depths in the stack before each pair, i64[m]; indices, in 0 ... m - 1,
    of accesses in second blocks whose id was used in the first block; and the
    indices of the accesses to these ids in the first block.
  """
  second = (time >> level & 1).astype(bool)
  left, right = np.flatnonzero(~second), np.flatnonzero(second)
  pair = time >> level + 1
  held = np.bincount(pair[left], minlength=pair[-1] + 1)
  start = np.cumsum(held) - held
  in_pair, wanted = pair[right], depth[right]
  top = wanted <= held[in_pair]
  repeats = right[top]
  origins = left[(start + held)[in_pair[top]] - wanted[top]]
  # Below the top, the id is the k-th one that the first block did not use. It
  # was below as many used ids as had fewer than k unused ids above them.
  key = np.sort(pair[left] << _HALF | depth[left])
  key -= np.arange(1, len(left) + 1) - start[pair[left]]
  below, where = right[~top], in_pair[~top]
  k = wanted[~top] - held[where]
  above = np.searchsorted(key, where << _HALF | k) - start[where]
  depth = depth.copy()
  depth[below] = k + above
  depth[repeats] = depth[origins]
  return depth, repeats, origins


def ids_at(depths: np.ndarray) -> np.ndarray:
  """The ids at given depths of a stack; each access moves its id to the top.

  At first the stack is 0, 1, 2, ... with 0 on top.

  >>> ids_at(np.array([1, 2, 2, 1, 3, 3])).tolist()
  [0, 1, 0, 0, 2, 1]

  Args:
    depths: depths from 1, i64[n]; n and depths are less than 2^31.

  Returns:
    The ids, i64[n].
  """
  n = len(depths)
  time, depth = np.arange(n), np.asarray(depths, np.int64)
  same: list[tuple[np.ndarray, np.ndarray]] = []
  for level in range(max(n - 1, 0).bit_length()):
    depth, repeats, origins = _merge(time, depth, level)
    same.append((time[origins], time[repeats]))
    kept = np.ones(len(time), bool)
    kept[origins] = False
    time, depth = time[kept], depth[kept]
  ids = np.empty(n, np.int64)
  ids[time] = depth - 1
  for early, late in reversed(same):
    ids[early] = ids[late]
  return ids
