"""Which rows and bags a device sends to which: arithmetic of the exchange.

Everything here is local to one device; `exchange` has the collectives. Shapes
are static: each pair of devices has a fixed number of slots (`Capacity`), and
what does not fit travels in further rounds.

Letters: `n` devices, `b` examples of a device, `P` rows of a stack on a
device. Row `r` of the whole stack is row `r % P` of device `r // P`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.bags import Bags, Group
from dlrm_jax.embedding.capacity import Capacity
from dlrm_jax.embedding.layout import Stack, StackKind
from dlrm_jax.rows import Pytree, take

NO_ROW = np.iinfo(np.int32).max
"""Row number of an unused slot; it sorts behind all rows."""


class Route(NamedTuple):
  """How the bags of a stack travel.

  Attributes:
    stack: the stack.
    groups: the static layout of its bags.
    room: slots for each pair of devices.
    devices: number of devices, n.
  """

  stack: Stack
  groups: tuple[Group, ...]
  room: Capacity
  devices: int

  @property
  def pooled(self) -> bool:
    """Whether bags travel in the first round, and not rows."""
    return self.stack.kind is StackKind.BAGS


class Needs(NamedTuple):
  """The rows that a device needs.

  Attributes:
    distinct: i32[M], distinct rows in ascending order, then NO_ROW.
    which: i32[b, K], the position in `distinct` of each gathered row.
  """

  distinct: jax.Array
  which: jax.Array


class Round(NamedTuple):
  """The rows that travel in a round: for each owner a range of distinct rows.

  Attributes:
    start: i32[n], the range's first position in `Needs.distinct`.
    stop: i32[n], the position behind its last.
    done: i32[n], rows of each owner below this number are done afterwards, on
      all devices.
  """

  start: jax.Array
  stop: jax.Array
  done: jax.Array


def first_rows(devices: int, local_rows: int) -> jax.Array:
  """The first row of each device, i32[n]."""
  return jnp.arange(devices, dtype=jnp.int32) * local_rows


def needs_of(rows: jax.Array) -> Needs:
  """Sorts the rows i32[b, K] that a device gathers; PAD is NO_ROW."""
  flat = jnp.where(rows < 0, NO_ROW, rows).reshape(-1)
  order = jnp.argsort(flat)
  ascending = flat[order]
  first = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]])
  number = jnp.cumsum(first, dtype=jnp.int32) - 1
  distinct = jnp.full_like(flat, NO_ROW).at[number].set(ascending)
  which = jnp.zeros_like(flat).at[order].set(number, unique_indices=True)
  return Needs(distinct, which.reshape(rows.shape))


def insertion_index(ascending: jax.Array, values: jax.Array) -> jax.Array:
  """Insertion index of each of a few values in an ascending array, i32[n]."""
  index = jnp.searchsorted(ascending, values, method='compare_all')
  return index.astype(jnp.int32)


def slots_of(start: jax.Array, stop: jax.Array, room: int) -> jax.Array:
  """Positions start ... stop - 1 for each device, i32[n, room]; then PAD."""
  position = start[:, None] + jnp.arange(room, dtype=jnp.int32)[None]
  return jnp.where(position < stop[:, None], position, PAD)


def rows_of_answers(
  bags: Bags, needs: Needs, this: Round, room: int, local_rows: int
) -> Bags:
  """The bags with rows numbered as they arrive from all owners in a round.

  Args:
    bags: bags of this device's examples, with rows of the whole stack.
    needs: their rows.
    this: the round; rows that do not travel in it become PAD.
    room: rows that each device sends.
    local_rows: P.
  """
  owner = jnp.where(bags.rows < 0, 0, bags.rows // local_rows)
  begin = this.start[owner]
  travels = (begin <= needs.which) & (needs.which < this.stop[owner])
  position = owner * room + needs.which - begin
  arrives = travels & (bags.rows >= 0)
  return Bags(jnp.where(arrives, position, PAD), bags.weights)


class Mail(NamedTuple):
  """Bags cut by the device that owns their rows: requests received and sent.

  Attributes:
    rows: i32[n, room.rows], rows of this device that each device asks for.
    bags: i32[n, room.rows], the number of the asking device's bag to which
      each of these rows belongs.
    weights: f32[n, room.rows], their weights; or None.
    home: i32[n, room.bags], for the bags that this device sent to each owner,
      its own number of the bag, or PAD.
    fits: bool[], equal on all devices; if it is False, nothing is asked.
  """

  rows: jax.Array
  bags: jax.Array
  weights: jax.Array | None
  home: jax.Array
  fits: jax.Array


class SortedBags(NamedTuple):
  """The rows of a device's bags, sorted by owner and then by bag.

  Attributes:
    rows: i32[b * K].
    order: i32[b * K], the place of each among the unsorted rows.
    begins: bool[b * K], whether a row is the first of its bag and owner.
    homes: i32[b * K], the numbers of the bags in that order; then PAD.
    edges: i32[n + 1], positions at which the rows of each owner begin.
    bag_edges: i32[n + 1], positions in `homes` at which its bags begin.
  """

  rows: jax.Array
  order: jax.Array
  begins: jax.Array
  homes: jax.Array
  edges: jax.Array
  bag_edges: jax.Array


def sort_by_owner(bags: Bags, route: Route, local_rows: int) -> SortedBags:
  """Sorts the rows of bags by the device that owns them."""
  count, k = bags.rows.size, bags.rows.shape[1]
  lengths = [g.length for g in route.groups for _ in range(g.count)]
  column = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
  flat = bags.rows.reshape(-1)
  owner = jnp.where(flat < 0, route.devices, flat // local_rows)
  order = jnp.argsort(owner, stable=True).astype(jnp.int32)
  owner, row = owner[order], flat[order]
  bag = order // k * len(lengths) + jnp.asarray(column)[order % k]
  same = (owner[1:] == owner[:-1]) & (bag[1:] == bag[:-1])
  begins = jnp.concatenate([jnp.ones(1, bool), ~same])
  before = jnp.cumsum(begins, dtype=jnp.int32)
  edges = insertion_index(owner, jnp.arange(route.devices + 1, dtype=jnp.int32))
  bag_edges = jnp.concatenate([jnp.zeros(1, jnp.int32), before])[edges]
  homes = jnp.full(count, PAD, jnp.int32).at[before - 1].set(bag)
  return SortedBags(row, order, begins, homes, edges, bag_edges)


def signed_rows(
  sorted_bags: SortedBags, slots: jax.Array, local_rows: int
) -> jax.Array:
  """Local rows of their owners, i32[n, room.rows], as they are sent.

  Rows that continue a bag are sent negated, so one number tells the row and
  where a bag begins. Unused slots hold NO_ROW.
  """
  first = first_rows(len(slots), local_rows)[:, None]
  local = take(sorted_bags.rows, slots) - first
  signed = jnp.where(take(sorted_bags.begins, slots), local, ~local)
  return jnp.where(slots < 0, NO_ROW, signed)


def unsigned_rows(signed: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Rows, and the number of their bag among those of each sender."""
  begins = (signed >= 0) & (signed != NO_ROW)
  number = jnp.cumsum(begins, axis=1, dtype=jnp.int32) - 1
  return jnp.where(signed < 0, ~signed, signed), number


def flat_bags(mail: Mail, room: int) -> jax.Array:
  """Numbers of the mail's bags over all senders, i32[n, room.rows]; PAD."""
  sender = jnp.arange(len(mail.bags), dtype=jnp.int32)[:, None]
  number = sender * room + mail.bags
  return jnp.where(mail.rows == NO_ROW, PAD, number)


def pool_for_others(tree: Pytree, mail: Mail, route: Route) -> jax.Array:
  """Sums of this device's rows of all devices' bags, f32[n, room.bags, D].

  Rows are summed in pieces of about as many rows as there are bags, so that
  f32[n, room.rows, D] never exists.
  """
  room, stack = route.room, route.stack
  pieces = -(-room.rows // room.bags)
  size = -(-room.rows // pieces)

  def cut(x: jax.Array, fill: int) -> jax.Array:
    wide = jnp.pad(
      x, ((0, 0), (0, pieces * size - room.rows)), constant_values=fill
    )
    return wide.reshape(len(x), pieces, size)

  rows = cut(mail.rows, NO_ROW)
  numbers = cut(flat_bags(mail, room.bags), PAD)
  weights = None if mail.weights is None else cut(mail.weights, 0)

  def add_piece(j: jax.Array, total: jax.Array) -> jax.Array:
    def piece(x: jax.Array) -> jax.Array:
      return lax.dynamic_index_in_dim(x, j, 1, keepdims=False)

    vectors = stack.storage.read(tree, piece(rows), stack.dim)
    if weights is not None:
      vectors = vectors * piece(weights)[..., None]
    return total.at[piece(numbers)].add(
      vectors, mode='drop', wrap_negative_indices=False
    )

  zero = jnp.zeros((len(mail.rows) * room.bags, stack.dim), jnp.float32)
  total = lax.fori_loop(0, pieces, add_piece, zero)
  return total.reshape(len(mail.rows), room.bags, -1)
