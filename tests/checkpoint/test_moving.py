"""Logical rows are the same after any move, and memory stays bounded."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax import sharding
from dlrm_jax.checkpoint.moving import move, rows_to_move
from dlrm_jax.embedding.layout import (
  StackKind,
  layout_from_json,
  layout_to_json,
)
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.rows import packed

PLACEMENTS = {
  'row-wise': Placement(),
  'table-wise': Placement(spread=1),
  'table-row-wise': Placement(spread=2),
  'column-wise': Placement(spread=1, columns=4),
  'grid': Placement(spread=2, columns=2),
  'replicated': Placement(replicated=True),
  'independent': Placement(independent=True),
}


def lay_out(sizes, shards, placements, hotness=1):
  tables = [
    Table(f't{i}', rows, dim, placement=placement)
    for i, ((rows, dim), placement) in enumerate(
      zip(sizes, placements, strict=True)
    )
  ]
  return plan_layout(tables, shards, {t.name: (hotness,) for t in tables})


def random_family(layout, ndim, seed=0):
  """Numbers for each stack, packed as the program has them; or 1 a row."""
  random = np.random.default_rng(seed)
  return {
    name: random.normal(size=shape_of(stack, ndim)).astype(np.float32)
    for name, stack in layout.stacks.items()
  }


def shape_of(stack, ndim):
  k = packed(stack.dim)
  return (stack.rows,) if ndim == 1 else (stack.rows // k, stack.dim * k)


def by_rows(array, dim):
  """A stack with a row for each row, `[R, D]` or `[R]`."""
  return array if array.ndim == 1 else array.reshape(-1, dim)


def columns_of(values, block):
  """What a block's rows hold: as they are, or one number for all columns."""
  return (
    np.repeat(values[:, None], block.dim, 1) if values.ndim == 1 else values
  )


def logical(layout, family, table, node):
  """A table as one array; one number a row counts for its block's columns."""
  rows = np.arange(layout.rows[table])
  return np.concatenate(
    [
      columns_of(
        by_rows(np.asarray(family[block.stack]), block.dim)[
          layout.locate(block, rows, node)
        ],
        block,
      )
      for block in layout.blocks[table]
    ],
    1,
  )


def assert_moved(old, before, new, after):
  """Tables of two families are the same, whatever their layouts."""
  for table, blocks in new.blocks.items():
    stacks = (
      old.stacks[old.blocks[table][0].stack],
      new.stacks[blocks[0].stack],
    )
    then, now = (
      range(s.shards) if s.kind is StackKind.INDEPENDENT else (0,)
      for s in stacks
    )
    copies = [logical(old, before, table, node) for node in then]
    if len(then) != len(now):
      copies = [np.mean(copies, 0, np.float64)] * len(now)
    for node, expected in zip(now, copies, strict=True):
      found = logical(new, after, table, node)
      for block in blocks:
        here = slice(block.column, block.column + block.dim)
        values = expected[:, here]
        if np.asarray(after[block.stack]).ndim == 1:
          values = np.repeat(values.mean(1, keepdims=True), block.dim, 1)
        np.testing.assert_allclose(found[:, here], values, 1e-6, 1e-7)


def moved(old, before, new, devices=1, told=lambda rows: None):
  """Moves a family to other devices."""
  ndim = next(iter(before.values())).ndim
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    wanted = {
      name: jax.ShapeDtypeStruct(
        shape_of(stack, ndim),
        np.float32,
        sharding=sharding.sharding_of(
          sharding.COPIED
          if stack.kind is StackKind.REPLICATED
          else sharding.SPLIT
        ),
      )
      for name, stack in new.stacks.items()
    }
    after = move(before, old, wanted, new, told, piece=100)
  for name, x in after.items():
    assert x.sharding == wanted[name].sharding
  return after


@pytest.mark.parametrize('ndim', [1, 2])
@pytest.mark.parametrize(
  ('before', 'after'), list(itertools.product(PLACEMENTS, repeat=2))
)
def test_every_placement_moves_to_every_other(before, after, ndim):
  sizes = [(13, 8), (100, 8), (1, 8)]
  old = lay_out(sizes, 4, [PLACEMENTS[before]] * 3)
  new = lay_out(sizes, 8, [PLACEMENTS[after]] * 3, hotness=2)
  family = random_family(old, ndim)
  assert_moved(old, family, new, moved(old, family, new, devices=4))


def test_as_many_copies_of_an_independent_table_stay_themselves():
  kept, other = PLACEMENTS['independent'], PLACEMENTS['row-wise']
  old = lay_out([(9, 4), (20, 4)], 4, [kept, kept])
  new = lay_out([(9, 4), (20, 4)], 4, [kept, other])
  family = random_family(old, 2)
  after = moved(old, family, new, devices=2)
  for node in range(4):
    np.testing.assert_array_equal(
      logical(new, after, 't0', node), logical(old, family, 't0', node)
    )


placements = st.sampled_from(list(PLACEMENTS.values()))
powers = st.sampled_from([2, 4, 8])


@given(st.data(), st.integers(1, 2))
def test_drawn_layouts_move_to_one_another(data, ndim):
  size = st.tuples(st.integers(1, 40), st.sampled_from([4, 8, 16]))
  sizes = data.draw(st.lists(size, min_size=1, max_size=5))
  several = st.lists(placements, min_size=len(sizes), max_size=len(sizes))
  old = lay_out(sizes, data.draw(powers), data.draw(several))
  new = lay_out(sizes, data.draw(powers), data.draw(several))
  old = layout_from_json(layout_to_json(old))
  family = random_family(old, ndim)
  told = []
  after = moved(
    old, family, new, data.draw(st.sampled_from([1, 2])), told.append
  )
  assert_moved(old, family, new, after)
  assert sum(told) == rows_to_move(old, new)


class Watched:
  """An array that notes which of its rows are read."""

  def __init__(self, values):
    self.values, self.shape, self.read = values, values.shape, set()

  def __getitem__(self, rows):
    assert not self.read & set(range(rows.start, rows.stop)), 'read twice'
    self.read |= set(range(rows.start, rows.stop))
    return self.values[rows]


def test_only_what_is_wanted_is_read_and_once():
  sizes = [(30, 8), (50, 8)]
  old = lay_out(sizes, 2, [Placement()] * 2)
  new = lay_out(sizes, 4, [Placement(columns=2), Placement(replicated=True)])
  source = Watched(by_rows(random_family(old, 2)['rows_8'], 8))
  for stack, table in (('rows_4', 't0'), ('replicated_8', 't1')):
    source.read.clear()
    like = jax.ShapeDtypeStruct(
      (new.stacks[stack].rows, new.stacks[stack].dim),
      np.float32,
      sharding=sharding.sharding_of(sharding.COPIED),
    )
    move({'rows_8': source}, old, {stack: like}, new, piece=100)
    (block,) = old.blocks[table]
    rows = np.arange(old.rows[table])
    assert source.read == set(old.locate(block, rows).tolist())
