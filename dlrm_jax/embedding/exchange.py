"""All collectives of tables: ids out, rows or bags home, gradients out.

Every function here runs on each device with its part of a stack, P rows, and
its part of the batch, `b` examples. A device sends another one only what that
one owns or asked for. `parcels` computes what goes where.

**Rows travel** where bags have one row: each device sorts the rows it needs,
asks their owners for each distinct row once, and gets it as its storage keeps
it, to be decoded where it arrives. On the way back it sends one summed
gradient for each distinct row.

**Bags travel** where bags have several rows: the owner of rows decodes and
sums those of a bag, so each device sends at most one vector for a bag.

Shapes are static, so each pair of devices has slots for so many rows
(`Capacity`). What does not fit follows in rounds (scope `overflow`), which
end once no device has anything left. In a round all devices handle the same
range of rows of a stack, which a minimum over all devices decides: so the
optimizer sees all gradients of a row at once, whatever the ids.
"""

import jax
import jax.numpy as jnp
from jax import lax

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.bags import Bags, pull, push
from dlrm_jax.embedding.parcels import (
  NO_ROW,
  Mail,
  Needs,
  Round,
  Route,
  first_rows,
  flat_bags,
  insertion_index,
  needs_of,
  pool_for_others,
  rows_of_answers,
  signed_rows,
  slots_of,
  sort_by_owner,
  unsigned_rows,
)
from dlrm_jax.rows import Pytree, RowGrads, sum_repeated, take
from dlrm_jax.sharding import AXIS


def _swap(x: jax.Array) -> jax.Array:
  """Sends part d of axis 0 to device d."""
  return lax.all_to_all(x, AXIS, split_axis=0, concat_axis=0, tiled=True)


def _next_round(
  needs: Needs, done: jax.Array, room: int, local_rows: int
) -> Round:
  """The next rows: the longest range for which every device has slots."""
  ends = first_rows(len(done), local_rows) + local_rows
  start = insertion_index(needs.distinct, done)
  limit = insertion_index(needs.distinct, ends)
  wanted = jnp.minimum(start + room, limit)
  reach = jnp.where(wanted < limit, take(needs.distinct, wanted), ends)
  reach = lax.pmin(reach, AXIS)
  stop = insertion_index(needs.distinct, reach)
  return Round(start, stop, reach)


def _ask(
  needs: Needs, this: Round, room: int, local_rows: int
) -> tuple[jax.Array, jax.Array]:
  """Slots of a round, and the local rows that others ask of this device."""
  slots = slots_of(this.start, this.stop, room)
  mine = take(needs.distinct, slots)
  local = mine - first_rows(len(slots), local_rows)[:, None]
  return slots, _swap(jnp.where(slots < 0, PAD, local))


def _fetch_round(
  tree: Pytree, bags: Bags, route: Route, needs: Needs, this: Round
) -> jax.Array:
  """Sums of those rows of bags that travel in a round, f32[b, G, D]."""
  room, dim = route.room.rows, route.stack.dim
  storage = route.stack.storage
  local_rows = route.stack.local_rows(tree)
  _, asked = _ask(needs, this, room, local_rows)
  answers = jax.tree.map(
    lambda x: _swap(x).reshape(-1, x.shape[-1]), storage.take(tree, asked, dim)
  )
  # The answers are a small table, from which bags are pulled as from any.
  local = rows_of_answers(bags, needs, this, room, local_rows)
  return pull(answers, local, route.groups, dim, storage)


def _post(bags: Bags, route: Route, local_rows: int) -> Mail:
  """Sends the rows of all bags to their owners, bag after bag."""
  room, by_owner = route.room, sort_by_owner(bags, route, local_rows)
  edges, bag_edges = by_owner.edges, by_owner.bag_edges
  fits = jnp.all(jnp.diff(edges) <= room.rows)
  fits &= jnp.all(jnp.diff(bag_edges) <= room.bags)
  fits = lax.pmin(fits.astype(jnp.int32), AXIS) > 0
  slots = slots_of(
    edges[:-1], jnp.where(fits, edges[1:], edges[:-1]), room.rows
  )
  rows, numbers = unsigned_rows(_swap(signed_rows(by_owner, slots, local_rows)))
  weights = bags.weights
  if weights is not None:
    weights = _swap(take(weights.reshape(-1)[by_owner.order], slots))
  bag_slots = slots_of(
    bag_edges[:-1], jnp.where(fits, bag_edges[1:], bag_edges[:-1]), room.bags
  )
  home = jnp.where(bag_slots < 0, PAD, take(by_owner.homes, bag_slots))
  return Mail(rows, numbers, weights, home, fits)


def _fetch_bags(
  tree: Pytree, mail: Mail, shape: tuple[int, int], route: Route
) -> jax.Array:
  """Sums of bags f32[b, G, D], added up where their rows live."""
  b, g = shape
  sums = _swap(pool_for_others(tree, mail, route))
  zero = jnp.zeros((b * g, route.stack.dim), jnp.float32)
  return (
    zero.at[mail.home]
    .add(sums, mode='drop', wrap_negative_indices=False)
    .reshape(b, g, -1)
  )


def _left(done: jax.Array, local_rows: int) -> jax.Array:
  return jnp.any(done < first_rows(len(done), local_rows) + local_rows)


def fetch(tree: Pytree, bags: Bags, route: Route) -> jax.Array:
  """Sums of bags of rows that may live on any device.

  Args:
    tree: this device's part of a stack; row `r` of the whole stack is row
      `r % P` of device `r // P`.
    bags: bags of this device's examples, with rows of the whole stack.
    route: the route of the stack.

  Returns:
    f32[b, G, D].
  """
  local_rows = route.stack.local_rows(tree)
  begin = first_rows(route.devices, local_rows)

  def rows_of_round(
    needs: Needs, done: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    this = _next_round(needs, done, route.room.rows, local_rows)
    return this.done, _fetch_round(tree, bags, route, needs, this)

  if route.pooled:
    needs = None  # sorted by row only if the bags do not fit, which is rare
    shape = len(bags.rows), sum(g.count for g in route.groups)
    mail = _post(bags, route, local_rows)
    total = _fetch_bags(tree, mail, shape, route)
    done = jnp.where(mail.fits, begin + local_rows, begin)
  else:
    needs = needs_of(bags.rows)
    done, total = rows_of_round(needs, begin)

  def another(
    carry: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    done, total = carry
    done, more = rows_of_round(needs or needs_of(bags.rows), done)
    return done, total + more

  with jax.named_scope('overflow'):
    _, total = lax.while_loop(
      lambda carry: _left(carry[0], local_rows), another, (done, total)
    )
  return total


class Delivery:
  """The gradients of a stack's rows on their way to the owners of the rows.

  `first()` is what arrives in the first round, and `another(done)` what
  arrives in one more round, for as long as `left(done)`. All gradients of a
  row arrive in the same round.
  """

  def __init__(
    self, grads: jax.Array, bags: Bags, route: Route, local_rows: int
  ) -> None:
    """Prepares to send.

    Args:
      grads: f32[b, G, D], gradients of this device's bags.
      bags: the bags that were fetched.
      route: the route of the stack.
      local_rows: P.
    """
    self._grads, self._bags, self._route = grads, bags, route
    self._local_rows = local_rows
    # Bags are sorted by row only when they do not fit.
    self._needs = None if route.pooled else needs_of(bags.rows)

  def first(self) -> tuple[RowGrads, jax.Array]:
    """Gradients of this device's rows, and `Round.done` afterwards."""
    begin = first_rows(self._route.devices, self._local_rows)
    if not self._route.pooled:
      return self.another(begin)
    mail = _post(self._bags, self._route, self._local_rows)
    flat = self._grads.reshape(-1, self._grads.shape[-1])
    sums = _swap(take(flat, mail.home)).reshape(-1, flat.shape[1])
    values = take(sums, flat_bags(mail, self._route.room.bags))
    if mail.weights is not None:
      values = values * mail.weights[..., None]
    arrived = RowGrads(
      jnp.where(mail.rows == NO_ROW, PAD, mail.rows).reshape(-1),
      values.reshape(-1, flat.shape[1]),
    )
    return arrived, jnp.where(mail.fits, begin + self._local_rows, begin)

  def another(self, done: jax.Array) -> tuple[RowGrads, jax.Array]:
    """One more round: at most one gradient for each row and sending device."""
    room = self._route.room.rows
    needs = self._needs or needs_of(self._bags.rows)
    this = _next_round(needs, done, room, self._local_rows)
    slots, asked = _ask(needs, this, room, self._local_rows)
    numbered = self._bags._replace(rows=needs.which)
    which, values = push(self._grads, numbered, self._route.groups).flat()
    summed = jnp.zeros_like(values).at[which].add(values)
    sent = _swap(take(summed, slots))
    arrived = RowGrads(asked.reshape(-1), sent.reshape(-1, values.shape[1]))
    return arrived, this.done

  def left(self, done: jax.Array) -> jax.Array:
    """Whether any gradient has not arrived, bool[]; equal on all devices."""
    return _left(done, self._local_rows)


def gather_replicated(grads: RowGrads, rows: int) -> RowGrads:
  """The gradients of a replicated stack, from all devices to all.

  The gradient of a stack of few rows is summed over devices as a whole. Of a
  large stack only the touched rows are sent, and every device sums them by
  itself: on GPUs, whose scatters add in any order, copies stay bit-equal only
  with `--xla_gpu_deterministic_ops`.

  Args:
    grads: gradients of this device's examples.
    rows: number of rows of the stack.
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
