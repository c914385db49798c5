"""The LRU stack: reuse distances of ids, and the ids that distances ask for.

All ids lie on a stack, the one used last on top. The *stack distance* of an
access is the depth at which its id lies then, 1 on top, or 0 when the id was
never used before. A cache that holds the C ids used last has an id exactly
where 1 <= distance <= C, so distances tell the hit rate of every size at once
(Mattson and others, "Evaluation techniques for storage hierarchies", 1970).

Both directions are log2(n) passes over whole arrays: no Python runs for an
access, and no stack is ever moved.
"""

import numpy as np

_HALF = 32


def _previous(ids: np.ndarray) -> np.ndarray:
  """Where each id was used last before: i64[n], -1 for nowhere."""
  order = np.argsort(ids, kind='stable')
  again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
  previous = np.full(len(ids), -1)
  previous[order[again + 1]] = order[again]
  return previous


def _smaller_before(permutation: np.ndarray) -> np.ndarray:
  """How many smaller numbers stand before each number.

  A radix sort from the highest bit on: at every bit, the ones of a group pass
  the zeros behind them, and count those that they do not.

  Args:
    permutation: i64[2^k] of 0 ... 2^k - 1.

  Returns:
    i64[2^k], by number.
  """
  bits = len(permutation).bit_length() - 1
  packed = permutation  # the number; above it what it has counted
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

  With p the last use of the id before, it is the number of accesses after p
  whose own last use was not after p (so that each id counts once), plus one.

  >>> stack_distances(np.array([7, 8, 7, 7, 9, 8])).tolist()
  [0, 0, 2, 1, 0, 3]

  Args:
    ids: of any integer type, [n]; n < 2^31.

  Returns:
    i64[n], 0 for ids not used before.
  """
  n = len(ids)
  previous = _previous(ids)
  again = np.flatnonzero(previous >= 0)
  # Last uses by rank; those that have none come first, the filling last.
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
  """Depths before blocks of 2^level accesses -> before pairs of such blocks.

  Two blocks make one. An access of the second block finds its id among those
  that the first used, which lie on top, or below them.

  Args:
    time: i64[m], the last access of each id in each block, ascending.
    depth: i64[m], of these ids in the stack before their block.
    level: of the blocks.

  Returns:
    The depths before the pairs; the accesses of second blocks (numbers in
    0 ... m - 1) that repeat an id of their first; that id's access there.
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
  # Below the top, the k-th id that the first block left alone is wanted: it
  # has as many used ones above it as lie less than k others deep.
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
  """The ids that accesses at these depths find; each then lies on top.

  The stack begins as 0, 1, 2, ... with 0 on top.

  >>> ids_at(np.array([1, 2, 2, 1, 3, 3])).tolist()
  [0, 1, 0, 0, 2, 1]

  Args:
    depths: i64[n], 1 or more; n and depths < 2^31.

  Returns:
    i64[n].
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
