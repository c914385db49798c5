"""Placement is arithmetic: every row has one place, and the way back."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.batch import PAD
from dlrm_jax.embedding import layout as layouts
from dlrm_jax.embedding.layout import StackKind
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError

PLACEMENTS = st.one_of(
  st.builds(
    Placement, spread=st.integers(0, 4), columns=st.sampled_from([1, 2, 4])
  ),
  st.just(Placement(replicated=True)),
  st.just(Placement(independent=True)),
)
TABLES = st.lists(
  st.tuples(st.integers(1, 70), PLACEMENTS), min_size=1, max_size=6
)


def make_layout(drawn, shards, pooled=()):
  tables = [
    Table(f't{i}', rows, 8, placement=placement)
    for i, (rows, placement) in enumerate(drawn)
  ]
  hotness = {t.name: (3,) if t.name in pooled else (1,) for t in tables}
  return tables, plan_layout(tables, shards, hotness)


def all_places(tables, layout):
  """(stack, address) -> (table, block, row), for node 0 of independent ones."""
  for table in tables:
    rows = np.arange(table.rows)
    for j, block in enumerate(layout.blocks[table.name]):
      for node in range(nodes_of(layout, block)):
        for row, at in zip(rows, layout.locate(block, rows, node), strict=True):
          yield (block.stack, int(at)), (table.name, j, int(row))


def nodes_of(layout, block):
  stack = layout.stacks[block.stack]
  return stack.shards if stack.kind is StackKind.INDEPENDENT else 1


@given(TABLES, st.sampled_from([4, 8]))
def test_no_two_rows_share_a_place(drawn, shards):
  tables, layout = make_layout(drawn, shards)
  places = list(all_places(tables, layout))
  assert len({place for place, _ in places}) == len(places)
  for (stack, at), _ in places:
    assert 0 <= at < layout.stacks[stack].rows


@pytest.mark.slow
@given(TABLES, st.sampled_from([4, 8]))
def test_a_shard_knows_what_it_holds(drawn, shards):
  tables, layout = make_layout(drawn, shards)
  want = dict(all_places(tables, layout))
  found = {}
  for name, stack in layout.stacks.items():
    blocks = layout.in_stack(name)
    for shard in range(stack.shards):
      local = jnp.arange(stack.shard_rows, dtype=jnp.int32)
      number, row = layouts.inverse(layout, name, jnp.int32(shard), local)
      for k in np.flatnonzero(np.asarray(number) >= 0):
        table, block = blocks[int(number[k])]
        j = layout.blocks[table].index(block)
        found[name, shard * stack.shard_rows + int(k)] = table, j, int(row[k])
      held = sum(layout.held(table, block, shard) for table, block in blocks)
      assert held == int((np.asarray(number) >= 0).sum())
  assert found == want


@given(TABLES)
def test_a_layout_is_what_its_json_says(drawn):
  _, layout = make_layout(drawn, 8)
  saved = json.loads(json.dumps(layouts.layout_to_json(layout)))
  assert layouts.layout_from_json(saved) == layout
  for stack in saved['stacks'].values():
    del stack['storage'], stack['state']  # as in earlier versions
  assert layouts.layout_from_json(saved) == layout


def test_rows_are_dealt_evenly_and_heads_are_apart():
  tables, layout = make_layout([(40, Placement())] * 8, 8)
  (stack,) = layout.stacks
  heads = [
    int(layout.locate(layout.blocks[t.name][0], np.array([0]))[0])
    for t in tables
  ]
  shards = [at // layout.stacks[stack].shard_rows for at in heads]
  assert sorted(shards) == list(range(8))
  for table in tables:
    (block,) = layout.blocks[table.name]
    assert [layout.held(table.name, block, k) for k in range(8)] == [5] * 8


def test_one_hot_and_multi_hot_tables_have_stacks_of_their_own():
  _, layout = make_layout([(9, Placement())] * 2, 2, pooled={'t1'})
  assert sorted(layout.stacks) == ['bags_8', 'rows_8']


def test_pad_stays_pad():
  tables, layout = make_layout([(9, Placement()), (9, Placement(spread=1))], 4)
  for table in tables:
    (block,) = layout.blocks[table.name]
    rows = np.array([[PAD, 3, PAD]], np.int32)
    for found in (
      layout.locate(block, rows),
      layout.locate(block, jnp.array(rows)),
    ):
      np.testing.assert_array_equal(np.asarray(found)[:, [0, 2]], PAD)


def test_tables_on_one_shard_are_spread_by_size():
  tables, layout = make_layout([(64, Placement(spread=1))] * 8, 8)
  firsts = [layout.blocks[table.name][0].first for table in tables]
  assert sorted(firsts) == list(range(8))


@pytest.mark.parametrize(
  ('placement', 'message'),
  [
    (Placement(spread=9), 'table t0: dealt over 9 shards, but there are 8'),
    (Placement(columns=3), 'table t0: width 8 cannot be cut into 3'),
  ],
)
def test_an_impossible_placement_names_the_table(placement, message):
  with pytest.raises(InputError, match=message):
    make_layout([(5, placement)], 8)
