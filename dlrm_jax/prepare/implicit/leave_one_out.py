"""Leave-one-out: the last item of each user is held out, beside negatives.

The evaluation protocol of He et al. 2017, "Neural collaborative filtering",
section 4.1. Users and items are rows of tables here.
"""

from typing import NamedTuple

import numpy as np

from dlrm_jax.data.schema import Block

CANDIDATES = 99
"""Number of negatives beside each held-out item."""

_USE = 0x4C4F4F
"""Sets these draws apart from other uses of a seed."""


class HeldOut(NamedTuple):
  """Which rows are held out.

  Attributes:
    rows: numbers of the held-out rows, in the order of their users, i64[n].
    single: number of users with one row, which stays in train.
    everything: number of users who have every item: nothing could be ranked
      below the held-out one, so all of their rows stay in train.
  """

  rows: np.ndarray
  single: int
  everything: int


class Owned(NamedTuple):
  """The distinct items of each user.

  Attributes:
    items: items of all users, one user after the other, rising within a user,
      i64[m].
    starts: where each user's items begin, i64[users + 1].
  """

  items: np.ndarray
  starts: np.ndarray

  @classmethod
  def of(cls, users: np.ndarray, items: np.ndarray, count: int) -> 'Owned':
    """The items of users 0 ... count - 1, from pairs i32[n] each."""
    most = int(items.max(initial=0)) + 1
    pairs = np.unique(users.astype(np.int64) * most + items)
    return cls(
      pairs % most, np.searchsorted(pairs, np.arange(count + 1) * most)
    )

  def of_user(self, user: int) -> np.ndarray:
    """The items of a user, rising."""
    return self.items[self.starts[user] : self.starts[user + 1]]

  @property
  def counts(self) -> np.ndarray:
    """Number of items of each user, i64[users]."""
    return np.diff(self.starts)


def held_out_rows(
  users: np.ndarray, times: np.ndarray, full: np.ndarray
) -> HeldOut:
  """The last row of each user by time; of equal times the later row.

  Args:
    users: i32[n].
    times: f64[n].
    full: whether a user has every item, bool[users].
  """
  order = np.lexsort((times, users))  # stable
  sorted_users = users[order]
  last = np.append(sorted_users[1:] != sorted_users[:-1], True)
  first = np.append(True, last[:-1])
  single, everything = first & last, full[sorted_users] & last
  return HeldOut(
    order[last & ~single & ~everything],
    int(single.sum()),
    int((everything & ~single).sum()),
  )


def absent_items(
  owned: np.ndarray, first: int, ranks: np.ndarray
) -> np.ndarray:
  """The items that a user does not have, by their ranks from 0.

  Args:
    owned: the user's items, rising, i64[m].
    first: first item of the catalogue.
    ranks: places among the items of the catalogue that are not owned.

  >>> absent_items(np.array([1, 3, 4]), 1, np.array([0, 1, 2])).tolist()
  [2, 5, 6]
  """
  # Before the j-th owned item there are owned[j] - first - j absent ones.
  before = owned - first - np.arange(len(owned))
  return first + ranks + np.searchsorted(before, ranks, 'right')


def ranked_lists(
  users: np.ndarray,
  items: np.ndarray,
  owned: Owned,
  first: int,
  catalogue: int,
  seed: int,
) -> Block:
  """Lists to rank: each held-out item, then negatives of its user.

  Negatives are distinct, drawn uniformly from the items that the user does not
  have, by the seed and the user's row. Where there are fewer than `CANDIDATES`
  such items, the list ends in examples of weight 0.

  Args:
    users: users of the held-out rows, i32[n].
    items: their items, i32[n].
    owned: all items of every user, the held-out ones included.
    first: first item of the catalogue.
    catalogue: number of its items.
    seed: seed of the draws.

  Returns:
    n lists of 1 + `CANDIDATES` examples.
  """
  length = 1 + CANDIDATES
  ids = np.empty((len(users), length, 2), np.int32)
  ids[:, :, 0] = users[:, None]
  ids[:, :, 1] = items[:, None]
  weights = np.zeros((len(users), length), np.float32)
  weights[:, 0] = 1
  for row, user in enumerate(users.tolist()):
    mine = owned.of_user(user)
    absent = catalogue - len(mine)
    count = min(CANDIDATES, absent)
    rng = np.random.default_rng((seed, _USE, user))
    ranks = rng.choice(absent, count, replace=False)
    ids[row, 1 : 1 + count, 1] = absent_items(mine, first, ranks)
    weights[row, 1 : 1 + count] = 1
  labels = np.zeros((len(users), length, 1), np.float32)
  labels[:, 0] = 1
  return Block(
    np.empty((len(users) * length, 0), np.float32),
    ids.reshape(-1, 2),
    labels.reshape(-1, 1),
    None,
    None if weights.all() else weights.reshape(-1),
  )
