"""What auto chooses: cheap, balanced, within memory, for ever the same."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dlrm_jax.embedding import bag_placement
from dlrm_jax.embedding.layout import StackKind
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.load import (
  RowState,
  Workload,
  copies_memory,
  exchange_memory,
  imbalance,
  layout_load,
)
from dlrm_jax.embedding.planner import PlacementBudget, choose, placement_name
from dlrm_jax.embedding.table import Placement, Table

BUDGET = PlacementBudget(
  shards=8, batch=8192, memory=10**9, state=RowState(1, 0)
)


def tables_of(rows, dim=64):
  return [Table(f't{i}', r, dim) for i, r in enumerate(rows)]


def plan(rows, hotness, budget=BUDGET, fixed=None, dim=64):
  tables = tables_of(rows, dim)
  hot = {t.name: (h,) for t, h in zip(tables, hotness, strict=True)}
  chosen = choose(tables, hot, fixed or {}, budget)
  placed = [
    dataclasses.replace(t, placement=chosen[t.name].placement) for t in tables
  ]
  layout = plan_layout(placed, budget.shards, hot)
  work = Workload(hot, budget.batch, budget.shards, budget.state)
  names = [placement_name(c.placement, budget.shards) for c in chosen.values()]
  return names, layout_load(layout, work), layout, chosen


def row_wise(rows, hotness):
  fixed = {f't{i}': Placement() for i in range(len(rows))}
  return plan(rows, hotness, fixed=fixed)[1]


def test_small_tables_are_copied_large_ones_dealt():
  names, *_ = plan([10, 1000, 5000, 100_000], [1, 1, 1, 1])
  assert names == ['replicated', 'replicated', 'row_wise', 'row_wise']


def test_copies_take_a_small_share_of_the_memory():
  tight = dataclasses.replace(BUDGET, memory=10**8)
  names, *_ = plan([10, 900, 901, 10_000], [1, 1, 1, 1], tight, dim=256)
  assert names == ['replicated', 'replicated', 'row_wise', 'row_wise']


@pytest.mark.parametrize('hotness', [(1, 1, 1, 1), (1, 1, 20, 30)])
def test_with_little_memory_no_more_is_needed_than_row_wise(hotness):
  rows = [10, 1000, 90_000, 400_000]
  tables, hot = tables_of(rows), {f't{i}': (h,) for i, h in enumerate(hotness)}
  fixed = {table.name: Placement() for table in tables}

  def needs(budget, fixed):
    chosen = choose(tables, hot, fixed, budget)
    placed = [
      dataclasses.replace(t, placement=chosen[t.name].placement) for t in tables
    ]
    layout = plan_layout(placed, budget.shards, hot)
    work = Workload(hot, budget.batch, budget.shards, budget.state)
    moving = copies_memory(layout, work) + exchange_memory(layout, work)
    return layout_load(layout, work).bytes + moving

  least = needs(BUDGET, fixed)
  for memory in [1, least // 2, least, 10**8, least + 64 * 10**6]:
    budget = dataclasses.replace(BUDGET, memory=memory)
    assert needs(budget, {}) <= max(least, budget.room)


def test_copying_saves_no_bytes_but_costs_none_either():
  rows, hotness = [100, 500, 900, 50_000], [1, 1, 1, 1]
  found = plan(rows, hotness)[1]
  assert found.sent <= row_wise(rows, hotness).sent


def test_equal_bags_stay_whole():
  names, found, *_ = plan([100_000] * 8, [20] * 8)
  assert set(names) == {'table_wise'}
  assert imbalance(found.reads) == 1
  assert found.sent < row_wise([100_000] * 8, [20] * 8).sent / 2


def test_one_large_bag_is_read_by_all():
  names, found, *_ = plan([100_000], [100])
  assert names == ['row_wise']
  assert imbalance(found.reads) == pytest.approx(1, abs=0.01)


def test_bags_are_never_worse_than_row_wise():
  rows = [400_000, 30_000, 9_000, 2_000_000, 50_000, 3_000]
  hotness = [3, 2, 6, 100, 27, 12]
  names, found, *_ = plan(rows, hotness)
  other = row_wise(rows, hotness)

  def seconds(load):
    return load.sent / 50e9 + load.moved.max() / 800e9

  assert seconds(found) <= seconds(other)
  assert names != ['row_wise'] * 6


def test_what_is_too_large_for_a_device_is_dealt():
  rows, hotness = [100_000] * 7 + [1_000_000], [20] * 8
  large = dataclasses.replace(BUDGET, memory=4 * 10**9)
  names, roomy, *_ = plan(rows, hotness, large, dim=128)
  assert set(names) == {'table_wise'}
  tight = dataclasses.replace(BUDGET, memory=roomy.bytes)
  names, found, *_ = plan(rows, hotness, tight, dim=128)
  assert found.bytes < tight.memory
  assert names[7] not in ('table_wise', 'replicated')


def test_one_shard_has_all():
  alone = dataclasses.replace(BUDGET, shards=1)
  names, found, layout, _ = plan([10, 90_000], [1, 20], alone)
  assert names == ['row_wise', 'row_wise']
  assert found.sent == 0
  assert layout.shards == 1


def test_given_placements_are_kept():
  fixed = {'t0': Placement(2, 2), 't1': Placement(independent=True)}
  names, _, _, chosen = plan([90_000, 9_000, 80_000], [20, 1, 20], fixed=fixed)
  assert names[:2] == ['grid 2x2', 'independent']
  assert chosen['t0'].why == 'given'


def test_every_choice_has_a_reason():
  chosen = plan([10, 9000, 100_000, 100_000], [1, 1, 20, 30])[3]
  assert {name: c.why for name, c in chosen.items()} == {
    't0': '10 rows: copies cost no more than an exchange',
    't1': 'one id an example: distinct rows travel',
    't2': 'bags: all devices share rows and reads',
    't3': 'bags: all devices share rows and reads',
  }


def many(tables):
  """Rows and hotness of so many tables of bags."""
  rng = np.random.default_rng(0)
  rows = np.exp(rng.uniform(7, 14, tables)).astype(int).tolist()
  return rows, rng.choice([2, 5, 20, 50], tables).tolist()


def test_many_bags_cost_no_more_than_row_wise_or_whole():
  rows, hotness = many(100)

  def seconds(load):
    return load.sent / 50e9 + load.moved.max() / 800e9

  roomy = dataclasses.replace(BUDGET, memory=10**11)
  found = plan(rows, hotness, roomy)[1]
  for placement in (Placement(), Placement(spread=1)):
    fixed = {f't{i}': placement for i in range(100)}
    other = plan(rows, hotness, roomy, fixed)[1]
    assert seconds(found) < 0.95 * seconds(other)


def test_many_bags_are_laid_no_oftener_than_some(monkeypatch):
  calls = []

  def counted(*arguments):
    calls.append(1)
    return plan_layout(*arguments)

  monkeypatch.setattr(bag_placement, 'plan_layout', counted)
  rows, hotness = many(60)
  plan(rows, hotness)
  few, calls[:] = len(calls), []
  rows, hotness = many(180)
  plan(rows, hotness)
  assert len(calls) <= 1.5 * few


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  st.lists(
    st.tuples(st.integers(1, 10**6), st.sampled_from([1, 1, 2, 20])),
    min_size=1,
    max_size=6,
  ),
  st.sampled_from([1, 2, 6, 8]),
)
def test_the_choice_does_not_depend_on_the_order_of_the_tables(pairs, shards):
  budget = dataclasses.replace(BUDGET, shards=shards)
  tables = tables_of([rows for rows, _ in pairs])
  hot = {t.name: (h,) for t, (_, h) in zip(tables, pairs, strict=True)}
  forward = choose(tables, hot, {}, budget)
  backward = choose(tables[::-1], hot, {}, budget)
  assert forward == backward == choose(tables, hot, {}, budget)
  assert list(forward) == [t.name for t in tables]


def skewed(rng, rows, size):
  """Ids like those of a log: the k-th is read about 1 / k times."""
  return ((rows + 1) ** rng.random(size)).astype(np.int64) - 1


def test_devices_hold_and_read_alike_though_ids_are_skewed():
  rng = np.random.default_rng(0)
  rows = [3, 10, 24, 105, 305, 633, 1460, 3194, 5683, 14992, 93145, 286181]
  rows += [2_202_608, 5_461_306]
  budget = dataclasses.replace(BUDGET, batch=128)
  _, held, layout, _ = plan(rows, [1] * len(rows), budget)
  reads = np.zeros(8)
  for name, (block,) in layout.blocks.items():
    stack = layout.stacks[block.stack]
    ids = skewed(rng, layout.rows[name], 20_000)
    if stack.kind is StackKind.REPLICATED:
      reads += len(ids) / 8
    else:
      at = layout.locate(block, ids)
      reads += np.bincount(at // stack.shard_rows, minlength=8)
  assert imbalance(held.rows) < 1.05
  assert imbalance(reads) < 1.3
