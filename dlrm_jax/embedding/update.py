"""The update of tables on one device: gradients arrive, rows move.

Where rows live on other devices, their gradients arrive in rounds. In each
round the row-wise optimizer moves the rows whose gradients arrived; all
gradients of a row arrive together. The norm of all gradients, by which they may
be clipped, is computed before the first row moves.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from dlrm_jax import native
from dlrm_jax.batch import PAD
from dlrm_jax.embedding.bags import Bags, Group, push
from dlrm_jax.embedding.exchange import Delivery, gather_replicated
from dlrm_jax.embedding.layout import Layout, StackKind
from dlrm_jax.embedding.parcels import Route
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.stored_rows import stored_state, stored_tables
from dlrm_jax.optim.clipping import Clip, clip_factor
from dlrm_jax.optim.fused import Fused
from dlrm_jax.optim.rowwise import Grads, RowTransform, with_counters
from dlrm_jax.rows import Pytree, RowGrads, sum_repeated, summed_by_row
from dlrm_jax.sharding import AXIS, device_count, on_cpu, over_devices

Tables = dict[str, Pytree]
"""For each stack an array f32[R, D], or what its storage keeps; packed."""
Rows = dict[str, Bags]
"""For each stack the rows to gather."""
Vectors = dict[str, jax.Array]
"""For each stack sums of bags, f32[B, G, D]."""


def as_local(bags: Bags, local_rows: int) -> Bags:
  """Bags of rows of this device's part, numbered from its first row."""
  first = jax.lax.axis_index(AXIS) * local_rows
  return bags._replace(rows=jnp.where(bags.rows < 0, PAD, bags.rows - first))


class BagGrads(NamedTuple):
  """Gradients of bags of rows, before they become those of single rows.

  Attributes:
    bags: the rows, K an example.
    groups: their static layout, as G bags.
    values: f32[B, G, D].
  """

  bags: Bags
  groups: tuple[Group, ...]
  values: jax.Array

  def of_rows(self) -> RowGrads:
    """The gradients of the rows; rows can repeat."""
    return push(self.values, self.bags, self.groups)


Arrived = BagGrads | Grads
"""What arrives for a stack; an array is the gradient of all of its rows."""


def _as_bags(grads: BagGrads | RowGrads) -> BagGrads:
  """Gradients of rows as those of bags, each of which is an example."""
  if isinstance(grads, BagGrads):
    return grads
  rows = grads.rows if grads.rows.ndim > 1 else grads.rows[:, None]
  group = Group(1, rows.shape[1])
  return BagGrads(Bags(rows, None), (group,), grads.values[:, None])


def _as_rows(grads: Arrived) -> Grads:
  return grads.of_rows() if isinstance(grads, BagGrads) else grads


def _nothing(dim: int) -> RowGrads:
  return RowGrads(jnp.zeros(0, jnp.int32), jnp.zeros((0, dim)))


def _scaled(grads: Grads, factor: jax.Array) -> Grads:
  if isinstance(grads, RowGrads):
    return grads._replace(values=grads.values * factor)
  return grads * factor


@dataclasses.dataclass(frozen=True)
class TableUpdate:
  """The static side of an update.

  Attributes:
    layout: the layout of all tables.
    groups: the static layout of each stack's bags.
    route: (stack, examples of a device) -> the route of the stack.
    tx: a `rowwise` transform.
  """

  layout: Layout
  groups: Mapping[str, tuple[Group, ...]]
  route: Callable[[str, int], Route]
  tx: RowTransform

  def __call__(
    self,
    tables: Tables,
    state: Pytree,
    rows: Rows,
    grads: Vectors,
    key: jax.Array | None,
    clip: Clip | None,
    factor: jax.Array | None,
  ) -> tuple[Tables, Pytree, jax.Array]:
    """New tables and state of this device, and the factor of the clipping.

    Args:
      tables: this device's part.
      state: this device's part of the state of `tx`.
      rows: the rows that this device looked up.
      grads: gradients of their bags.
      key: what noise is hashed from; None: storages round to nearest.
      clip: the norm to clip by; None: gradients stay as they are.
      factor: f32[], of the learning rates; None: 1.
    """
    arrived: dict[str, Arrived] = {}
    on_way: dict[str, Delivery] = {}
    done: dict[str, jax.Array] = {}
    for stack, bags in rows.items():
      if self._travels(stack):
        local_rows = self.layout.stacks[stack].local_rows(tables[stack])
        route = self.route(stack, len(bags.rows))
        on_way[stack] = Delivery(grads[stack], bags, route, local_rows)
        with jax.named_scope('exchange'):
          arrived[stack], done[stack] = on_way[stack].first()
      else:
        found = self._stays(stack, tables[stack], bags, grads[stack])
        arrived[stack] = found if clip is None else _as_rows(found)
    before, scale = state, jnp.ones(())

    def left(carry: tuple[dict[str, jax.Array], Any, Any]) -> jax.Array:
      return functools.reduce(
        jnp.logical_or, [on_way[s].left(carry[0][s]) for s in on_way]
      )

    def next_round(
      done: dict[str, jax.Array],
    ) -> tuple[dict[str, jax.Array], dict[str, RowGrads]]:
      with jax.named_scope('exchange'):
        now = {s: on_way[s].another(done[s]) for s in on_way}
      reach = {s: reach for s, (_, reach) in now.items()}
      return reach, {s: grads for s, (grads, _) in now.items()}

    if clip is not None:
      squares = clip.squares + self._squares(
        {s: _as_rows(grads) for s, grads in arrived.items()}, tables
      )

      def add_squares(
        carry: tuple[dict[str, jax.Array], jax.Array, None],
      ) -> tuple[dict[str, jax.Array], jax.Array, None]:
        done, grads = next_round(carry[0])
        return done, carry[1] + self._squares(grads, tables), None

      if on_way:
        with jax.named_scope('overflow'):
          _, squares, _ = jax.lax.while_loop(
            left, add_squares, (done, squares, None)
          )
      scale = clip_factor(clip.limit, squares)

    def moved(
      tables: Tables, state: Pytree, arrived: Mapping[str, Arrived]
    ) -> tuple[Tables, Pytree]:
      if clip is not None:
        arrived = {s: _scaled(_as_rows(g), scale) for s, g in arrived.items()}
      return self._moved(tables, state, arrived, key, factor)

    tables, state = moved(tables, state, arrived)
    if not on_way:
      return tables, state, scale

    def another(
      carry: tuple[dict[str, jax.Array], Tables, Pytree],
    ) -> tuple[dict[str, jax.Array], Tables, Pytree]:
      done, tables, state = carry
      done, arrived = next_round(done)
      # A step counts once, however many rounds it takes.
      state = with_counters(self.tx, state, before)
      return done, *moved(tables, state, arrived)

    with jax.named_scope('overflow'):
      _, tables, state = jax.lax.while_loop(
        left, another, (done, tables, state)
      )
    return tables, state, scale

  def _travels(self, stack: str) -> bool:
    kind = self.layout.stacks[stack].kind
    return device_count() > 1 and kind in (StackKind.ROWS, StackKind.BAGS)

  def _stays(
    self, stack: str, tree: Pytree, bags: Bags, grads: jax.Array
  ) -> Arrived:
    """Gradients of a stack whose rows are all on this device."""
    about = self.layout.stacks[stack]
    mine = BagGrads(bags, self.groups[stack], grads)
    if about.dense:
      rows = about.local_rows(tree)
      return over_devices(jax.lax.psum, summed_by_row(mine.of_rows(), rows))
    if about.kind is StackKind.INDEPENDENT:
      # The loss is a mean over the batch; a node learns from its own part.
      if device_count() > 1:
        bags = as_local(bags, about.local_rows(tree))
      return mine._replace(bags=bags, values=grads * float(about.shards))
    if device_count() == 1:
      return mine
    return gather_replicated(mine.of_rows().flat(), about.local_rows(tree))

  def _moved(
    self,
    tables: Tables,
    state: Pytree,
    arrived: Mapping[str, Arrived],
    key: jax.Array | None,
    factor: jax.Array | None,
  ) -> tuple[Tables, Pytree]:
    """Tables and state after an update by the gradients that arrived."""
    stacks, by_kernel = self.layout.stacks, self._for_kernels(arrived)
    grads = {
      s: _as_rows(arrived[s])
      if s in arrived and s not in by_kernel
      else _nothing(stacks[s].dim)
      for s in tables
    }
    values = stored_tables(self.layout, tables, key)
    kept = stored_state(self.layout, tables, self.tx, state, key)
    updates, moved = cast(Any, self.tx).update(grads, kept, values)
    if factor is not None:
      updates = {s: _scaled(update, factor) for s, update in updates.items()}
    others = {
      s: values[s].add(updates[s]) for s in tables if s not in by_kernel
    }
    if not by_kernel:
      return others, moved
    fused = cast(Fused, self.tx.fused)
    numbers = fused.numbers(state, factor)
    found = {
      s: native.update(
        fused.kind,
        (cast(jax.Array, tables[s]), *fused.rows(state, s)),
        *bags,
        grads,
        numbers,
        groups,
      )
      for s, (bags, groups, grads) in by_kernel.items()
    }
    moved = fused.with_rows(moved, {s: rows for s, (_, *rows) in found.items()})
    return others | {s: table for s, (table, *_) in found.items()}, moved

  def _for_kernels(self, arrived: Mapping[str, Arrived]) -> dict[str, BagGrads]:
    """The gradients by which native kernels move rows."""
    if self.tx.fused is None or not on_cpu() or not native.in_use():
      return {}
    return {
      s: _as_bags(grads)
      for s, grads in arrived.items()
      if isinstance(grads, RowGrads | BagGrads)
      and self.layout.stacks[s].storage is FLOAT32
      and self.layout.stacks[s].state is FLOAT32
    }

  def _squares(self, grads: Mapping[str, Grads], tables: Tables) -> jax.Array:
    """Sum of squares of gradients, f32[]; repeated rows are summed before."""
    mine, all_have = jnp.zeros(()), jnp.zeros(())
    for stack, of_stack in grads.items():
      about = self.layout.stacks[stack]
      if isinstance(of_stack, RowGrads):
        rows, values = sum_repeated(of_stack)
        held = (rows >= 0) & (rows < about.local_rows(tables[stack]))
        total = jnp.sum(jnp.square(values), where=held[:, None])
      else:
        total = jnp.sum(jnp.square(of_stack))
      if about.kind is StackKind.REPLICATED:
        all_have += total
      else:
        mine += total
    return over_devices(jax.lax.psum, mine) + all_have
