"""All that moves between devices: ids out, vectors home, gradients out.

Every function here runs on each device with its part of a stack, `f32[P, D]`,
and its part of the batch, `b` examples. `over_devices` is for sums of the
layers; all else is about rows, whose exchange is personalised: a device sends
another one only what that one has or asked for.

**Rows travel** where bags have one row: each device sorts the rows it needs,
asks for each distinct one once, and gets its vector; on the way back it sends
one summed gradient a distinct row. Sorted by address, the rows of a device
lie side by side, and repeats too: one sort does both.

**Bags travel** where a bag has several: the owner of rows sums those of a
bag, so a bag's vector comes home at most once from each device.

Shapes are static, so each pair of devices has room for so many rows
(`Capacity`). What does not fit follows in rounds (scope `overflow`), which
end as soon as nobody has anything left. In a round all devices handle the
same range of rows of a stack, agreed by a minimum over all: so the gradients
of a row are together when an optimizer sees them, whatever the ids.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.bags import Bags, Group, pull, push
from dlrm_jax.embedding.capacity import Capacity
from dlrm_jax.rows import Pytree, RowGrads, sum_repeated, take
from dlrm_jax.sharding import AXIS, device_count

_NOWHERE = np.iinfo(np.int32).max


def over_devices(collective: Callable[..., Any], tree: Pytree) -> Pytree:
  """A `lax.psum` or `lax.pmax` of what every device has; one alone has all."""
  return tree if device_count() == 1 else collective(tree, AXIS)


class Route(NamedTuple):
  """How the bags of a stack travel.

  Attributes:
    dim: D of the stack.
    groups: their static layout.
    room: for each pair of devices.
    devices: how many.
    pooled: whether bags travel in the first round, or rows.
  """

  dim: int
  groups: tuple[Group, ...]
  room: Capacity
  devices: int
  pooled: bool


class _Needs(NamedTuple):
  """The rows that a device needs.

  Attributes:
    distinct: i32[M], ascending, filled up with NOWHERE.
    which: i32[b, K], where each gathered row is among them.
  """

  distinct: jax.Array
  which: jax.Array


class _Round(NamedTuple):
  """The distinct rows that travel in a round: for each owner a range.

  Attributes:
    start: i32[n], the first of them in `_Needs.distinct`.
    stop: i32[n], behind the last.
    done: i32[n], the rows below are done, for all devices.
  """

  start: jax.Array
  stop: jax.Array
  done: jax.Array


def _swap(x: jax.Array) -> jax.Array:
  """Part d of axis 0 goes to device d."""
  return lax.all_to_all(x, AXIS, split_axis=0, concat_axis=0, tiled=True)


def _firsts(devices: int, local_rows: int) -> jax.Array:
  """The first row of each device, i32[n]."""
  return jnp.arange(devices, dtype=jnp.int32) * local_rows


def _needs(rows: jax.Array) -> _Needs:
  flat = jnp.where(rows < 0, _NOWHERE, rows).reshape(-1)
  order = jnp.argsort(flat)
  ascending = flat[order]
  first = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]])
  number = jnp.cumsum(first, dtype=jnp.int32) - 1
  distinct = jnp.full_like(flat, _NOWHERE).at[number].set(ascending)
  which = jnp.zeros_like(flat).at[order].set(number, unique_indices=True)
  return _Needs(distinct, which.reshape(rows.shape))


def _find(ascending: jax.Array, values: jax.Array) -> jax.Array:
  """Where each of a few values would stand, i32[n]."""
  at = jnp.searchsorted(ascending, values, method='compare_all')
  return at.astype(jnp.int32)


def _next_round(
  needs: _Needs, done: jax.Array, room: int, local_rows: int
) -> _Round:
  """As many rows as every device has room for; the same range on all."""
  ends = _firsts(len(done), local_rows) + local_rows
  start = _find(needs.distinct, done)
  limit = _find(needs.distinct, ends)
  wanted = jnp.minimum(start + room, limit)
  reach = jnp.where(wanted < limit, take(needs.distinct, wanted), ends)
  reach = lax.pmin(reach, AXIS)
  stop = _find(needs.distinct, reach)
  return _Round(start, stop, reach)


def _slots(start: jax.Array, stop: jax.Array, room: int) -> jax.Array:
  """Positions start ... stop - 1 of each device, i32[n, room]; PAD behind."""
  at = start[:, None] + jnp.arange(room, dtype=jnp.int32)[None]
  return jnp.where(at < stop[:, None], at, PAD)


def _asked(
  needs: _Needs, this: _Round, room: int, local_rows: int
) -> tuple[jax.Array, jax.Array]:
  """Slots of a round, and the rows that others ask this device for."""
  slots = _slots(this.start, this.stop, room)
  mine = take(needs.distinct, slots)
  local = mine - _firsts(len(slots), local_rows)[:, None]
  return slots, _swap(jnp.where(slots < 0, PAD, local))


def _fetch(
  stack: jax.Array, bags: Bags, route: Route, needs: _Needs, this: _Round
) -> jax.Array:
  """Sums of those rows of bags that travel in a round, f32[b, G, D]."""
  room, dim = route.room.rows, route.dim
  local_rows = stack.size // dim
  _, asked = _asked(needs, this, room, local_rows)
  answers = _swap(take(stack, asked, dim)).reshape(-1, dim)
  # The answers are a small table: bags are pulled from it as from any.
  owner = jnp.where(bags.rows < 0, 0, bags.rows // local_rows)
  begin = this.start[owner]
  here = (begin <= needs.which) & (needs.which < this.stop[owner])
  at = owner * room + needs.which - begin
  there = here & (bags.rows >= 0)
  rows = jnp.where(there, at, PAD)
  return pull(answers, Bags(rows, bags.weights), route.groups, dim)


class _Mail(NamedTuple):
  """Bags cut by owner: what a device asks for, and whose bags they are.

  Attributes:
    rows: i32[n, room.rows], local rows of the asked device.
    bags: i32[n, room.rows], to which of that device's bags each belongs.
    weights: f32[n, room.rows] or None.
    home: i32[n, room.bags], the asking device's number of each bag, or PAD.
    fits: bool[], on all devices alike; if not, nothing is asked.
  """

  rows: jax.Array
  bags: jax.Array
  weights: jax.Array | None
  home: jax.Array
  fits: jax.Array


def _post(bags: Bags, route: Route, local_rows: int) -> _Mail:
  """Sends the rows of all bags to their owners, bag after bag."""
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
  edges = _find(owner, jnp.arange(route.devices + 1, dtype=jnp.int32))
  bag_edges = jnp.concatenate([jnp.zeros(1, jnp.int32), before])[edges]
  fits = jnp.all(jnp.diff(edges) <= route.room.rows)
  fits &= jnp.all(jnp.diff(bag_edges) <= route.room.bags)
  fits = lax.pmin(fits.astype(jnp.int32), AXIS) > 0
  slots = _slots(
    edges[:-1], jnp.where(fits, edges[1:], edges[:-1]), route.room.rows
  )
  local = take(row, slots) - _firsts(route.devices, local_rows)[:, None]
  # One number says both: rows that continue a bag are sent negated.
  signed = jnp.where(take(begins, slots), local, ~local)
  rows, numbers = _opened(_swap(jnp.where(slots < 0, _NOWHERE, signed)))
  weights = bags.weights
  if weights is not None:
    weights = _swap(take(weights.reshape(-1)[order], slots))
  homes = jnp.full(count, PAD, jnp.int32).at[before - 1].set(bag)
  bag_slots = _slots(
    bag_edges[:-1],
    jnp.where(fits, bag_edges[1:], bag_edges[:-1]),
    route.room.bags,
  )
  home = jnp.where(bag_slots < 0, PAD, take(homes, bag_slots))
  return _Mail(rows, numbers, weights, home, fits)


def _opened(signed: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Rows, and the number of their bag among those of each sender."""
  begins = (signed >= 0) & (signed != _NOWHERE)
  number = jnp.cumsum(begins, axis=1, dtype=jnp.int32) - 1
  return jnp.where(signed < 0, ~signed, signed), number


def _flat_bags(mail: _Mail, room: int) -> jax.Array:
  sender = jnp.arange(len(mail.bags), dtype=jnp.int32)[:, None]
  number = sender * room + mail.bags
  return jnp.where(mail.rows == _NOWHERE, PAD, number)


def _pool_for_others(stack: jax.Array, mail: _Mail, route: Route) -> jax.Array:
  """Sums of this device's rows of everybody's bags, f32[n, room.bags, D].

  In pieces of about as many rows as there are bags: f32[n, room.rows, D]
  never exists.
  """
  room, dim = route.room, route.dim
  pieces = -(-room.rows // room.bags)
  size = -(-room.rows // pieces)

  def cut(x: jax.Array, fill: int) -> jax.Array:
    wide = jnp.pad(
      x, ((0, 0), (0, pieces * size - room.rows)), constant_values=fill
    )
    return wide.reshape(len(x), pieces, size)

  rows = cut(mail.rows, _NOWHERE)
  numbers = cut(_flat_bags(mail, room.bags), PAD)
  weights = None if mail.weights is None else cut(mail.weights, 0)

  def add_piece(j: jax.Array, total: jax.Array) -> jax.Array:
    def piece(x: jax.Array) -> jax.Array:
      return lax.dynamic_index_in_dim(x, j, 1, keepdims=False)

    vectors = take(stack, piece(rows), dim)
    if weights is not None:
      vectors = vectors * piece(weights)[..., None]
    return total.at[piece(numbers)].add(
      vectors, mode='drop', wrap_negative_indices=False
    )

  zero = jnp.zeros((len(mail.rows) * room.bags, dim), stack.dtype)
  total = lax.fori_loop(0, pieces, add_piece, zero)
  return total.reshape(len(mail.rows), room.bags, -1)


def _fetch_bags(
  stack: jax.Array, mail: _Mail, shape: tuple[int, int], route: Route
) -> jax.Array:
  """Sums of bags f32[b, G, D], pooled where their rows are."""
  b, g = shape
  sums = _swap(_pool_for_others(stack, mail, route))
  zero = jnp.zeros((b * g, route.dim), stack.dtype)
  return (
    zero.at[mail.home]
    .add(sums, mode='drop', wrap_negative_indices=False)
    .reshape(b, g, -1)
  )


def _left(done: jax.Array, local_rows: int) -> jax.Array:
  return jnp.any(done < _firsts(len(done), local_rows) + local_rows)


def fetch(stack: jax.Array, bags: Bags, route: Route) -> jax.Array:
  """Sums of bags of rows that may live on any device.

  Args:
    stack: f32[P, D], or packed, this device's part; row `r` of the whole is
      row `r % P` of device `r // P`.
    bags: of this device's examples, with rows of the whole.
    route: of the stack.

  Returns:
    f32[b, G, D].
  """
  local_rows = stack.size // route.dim
  begin = _firsts(route.devices, local_rows)

  def rows_of_round(
    needs: _Needs, done: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    this = _next_round(needs, done, route.room.rows, local_rows)
    return this.done, _fetch(stack, bags, route, needs, this)

  if route.pooled:
    needs = None  # seldom needed: sorted only when bags do not fit
    shape = len(bags.rows), sum(g.count for g in route.groups)
    mail = _post(bags, route, local_rows)
    total = _fetch_bags(stack, mail, shape, route)
    done = jnp.where(mail.fits, begin + local_rows, begin)
  else:
    needs = _needs(bags.rows)
    done, total = rows_of_round(needs, begin)

  def another(
    carry: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    done, total = carry
    done, more = rows_of_round(needs or _needs(bags.rows), done)
    return done, total + more

  with jax.named_scope('overflow'):
    _, total = lax.while_loop(
      lambda carry: _left(carry[0], local_rows), another, (done, total)
    )
  return total


class Delivery:
  """The gradients of a stack's rows on their way to the rows' owners.

  `first()` is what arrives in the first round, `another(done)` what arrives
  in one more, for as long as `left(done)`. All gradients of a row arrive in
  the same round.
  """

  def __init__(
    self, grads: jax.Array, bags: Bags, route: Route, local_rows: int
  ) -> None:
    """Prepares to send.

    Args:
      grads: f32[b, G, D] of this device's bags.
      bags: as fetched.
      route: of the stack.
      local_rows: P.
    """
    self._grads, self._bags, self._route = grads, bags, route
    self._local_rows = local_rows
    # Bags are sorted by row only when they do not fit.
    self._needs = None if route.pooled else _needs(bags.rows)

  def first(self) -> tuple[RowGrads, jax.Array]:
    """Gradients of rows of this device, and how far all devices are."""
    begin = _firsts(self._route.devices, self._local_rows)
    if not self._route.pooled:
      return self.another(begin)
    mail = _post(self._bags, self._route, self._local_rows)
    flat = self._grads.reshape(-1, self._grads.shape[-1])
    sums = _swap(take(flat, mail.home)).reshape(-1, flat.shape[1])
    values = take(sums, _flat_bags(mail, self._route.room.bags))
    if mail.weights is not None:
      values = values * mail.weights[..., None]
    arrived = RowGrads(
      jnp.where(mail.rows == _NOWHERE, PAD, mail.rows).reshape(-1),
      values.reshape(-1, flat.shape[1]),
    )
    return arrived, jnp.where(mail.fits, begin + self._local_rows, begin)

  def another(self, done: jax.Array) -> tuple[RowGrads, jax.Array]:
    """One more round: one gradient a distinct row and device."""
    room = self._route.room.rows
    needs = self._needs or _needs(self._bags.rows)
    this = _next_round(needs, done, room, self._local_rows)
    slots, asked = _asked(needs, this, room, self._local_rows)
    numbered = self._bags._replace(rows=needs.which)
    which, values = push(self._grads, numbered, self._route.groups).flat()
    summed = jnp.zeros_like(values).at[which].add(values)
    sent = _swap(take(summed, slots))
    arrived = RowGrads(asked.reshape(-1), sent.reshape(-1, values.shape[1]))
    return arrived, this.done

  def left(self, done: jax.Array) -> jax.Array:
    """Whether anything is still on its way, bool[]; the same on all devices."""
    return _left(done, self._local_rows)


def gather_replicated(grads: RowGrads, rows: int) -> RowGrads:
  """The gradients of a replicated stack, from all devices to all.

  A stack of few rows is summed as a whole; of a large one only what the
  devices touched is sent, and every device sums it by itself: on GPUs, whose
  scatters add in any order, copies stay bit-equal only with
  `--xla_gpu_deterministic_ops`.

  Args:
    grads: of this device.
    rows: of the stack.
  """
  if rows > len(grads.rows):
    summed = sum_repeated(grads)
    return RowGrads(
      lax.all_gather(summed.rows, AXIS, tiled=True),
      lax.all_gather(summed.values, AXIS, tiled=True),
    )
  counted = jnp.concatenate(
    [grads.values, jnp.ones((len(grads.rows), 1), jnp.float32)], 1
  )
  total = lax.psum(
    jnp.zeros((rows, counted.shape[1]), jnp.float32)
    .at[grads.rows]
    .add(counted, mode='drop', wrap_negative_indices=False),
    AXIS,
  )
  touched = total[:, -1] > 0
  everything = jnp.arange(rows, dtype=jnp.int32)
  return RowGrads(jnp.where(touched, everything, PAD), total[:, :-1])
