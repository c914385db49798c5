"""Loads are those of the layout row by row, bytes those of the exchange."""

import jax
import numpy as np
import pytest

from configs import default
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.task import build_task
from dlrm_jax.embedding.capacity import capacity
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.load import (
  RowState,
  Workload,
  bag_specs,
  copies_memory,
  imbalance,
  layout_load,
  load_by_table,
)
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.plan import compiled

PLACEMENTS = {
  'row_wise': Placement(),
  'table_wise': Placement(1),
  'table_row_wise': Placement(2),
  'column_wise': Placement(1, 2),
  'grid': Placement(2, 2),
  'replicated': Placement(replicated=True),
  'independent': Placement(independent=True),
}


def laid_out(placement, rows=(50, 7, 130), hotness=(1, 3, 2), shards=8):
  tables = [
    Table(f't{i}', r, 8, placement=placement) for i, r in enumerate(rows)
  ]
  hot = {t.name: (h,) for t, h in zip(tables, hotness, strict=True)}
  return plan_layout(tables, shards, hot), hot


@pytest.mark.parametrize('name', PLACEMENTS)
@pytest.mark.parametrize('devices', [1, 2, 8])
def test_rows_held_are_those_that_have_an_address_there(name, devices):
  layout, hot = laid_out(PLACEMENTS[name])
  expected = np.zeros(devices, int)
  for table, blocks in layout.blocks.items():
    for block in blocks:
      stack = layout.stacks[block.stack]
      for node in range(8) if name == 'independent' else [None]:
        rows = np.arange(layout.rows[table])
        at = np.asarray(layout.locate(block, rows, node))
        if name == 'replicated':
          expected += len(at)
        else:
          where = at // (stack.rows // devices)
          expected += np.bincount(where, minlength=devices)
  found = layout_load(layout, Workload(hot, 64, devices, RowState()))
  assert found.rows.tolist() == expected.tolist()


@pytest.mark.parametrize('name', PLACEMENTS)
def test_every_bag_row_is_read_somewhere(name):
  layout, hot = laid_out(PLACEMENTS[name], rows=(5000, 700, 13000))
  found = layout_load(layout, Workload(hot, 64, 4, RowState()))
  columns = PLACEMENTS[name].columns
  assert found.reads.sum() == pytest.approx(64 * 6 * columns)


def test_one_device_sends_nothing():
  for placement in PLACEMENTS.values():
    layout, hot = laid_out(placement)
    assert layout_load(layout, Workload(hot, 64, 1, RowState())).sent == 0


def test_independent_tables_send_nothing():
  layout, hot = laid_out(PLACEMENTS['independent'])
  assert layout_load(layout, Workload(hot, 64, 8, RowState())).sent == 0


def test_rows_are_sent_with_ids_both_ways():
  layout, hot = laid_out(Placement(), hotness=(1, 1, 1))
  work = Workload(hot, 64, 8, RowState())
  (specs,) = bag_specs(layout, work).values()
  rows = capacity(layout, specs, 8, 8).rows
  assert layout_load(layout, work).sent == 7 * rows * (4 + 8 * 8)


def test_bags_are_sent_as_sums():
  layout, hot = laid_out(Placement(1), hotness=(4, 4, 4))
  work = Workload(hot, 64, 8, RowState())
  (specs,) = bag_specs(layout, work).values()
  room = capacity(layout, specs, 8, 8)
  sent = layout_load(layout, work).sent
  assert sent == 7 * (4 * room.rows + 8 * 8 * room.bags)


def test_a_small_replicated_stack_is_summed_a_large_one_gathered():
  small, hot = laid_out(PLACEMENTS['replicated'], rows=(5, 5, 5))
  work = Workload(hot, 256, 4, RowState())
  assert small.stacks['replicated_8'].rows == 128  # 15 and padding
  assert layout_load(small, work).sent == 2 * 3 / 4 * 128 * 36
  large, _ = laid_out(PLACEMENTS['replicated'], rows=(5, 5, 50_000))
  assert layout_load(large, work).sent == 3 * 64 * 6 * 36


def test_bytes_hold_padding_and_the_state_of_the_optimizer():
  layout, hot = laid_out(Placement(), rows=(9, 9, 9), hotness=(1, 1, 1))
  stack = layout.stacks['rows_8']
  assert stack.shard_rows == 128  # 2 + 2 + 2, padded
  adam, by_row = RowState(2, 0), RowState(0, 1)
  assert layout_load(layout, Workload(hot, 8, 8, adam)).bytes == 128 * 8 * 3 * 4
  assert (
    layout_load(layout, Workload(hot, 8, 4, by_row)).bytes == 2 * 128 * 9 * 4
  )


def test_tables_add_up_to_the_whole():
  layout, hot = laid_out(PLACEMENTS['grid'])
  work = Workload(hot, 64, 8, RowState(1, 0))
  whole, tables = (
    layout_load(layout, work),
    load_by_table(layout, work).values(),
  )
  assert sum(t.sent for t in tables) == pytest.approx(whole.sent)
  assert sum(t.reads for t in tables).tolist() == whole.reads.tolist()
  assert sum(t.moved for t in tables).tolist() == whole.moved.tolist()


def test_a_table_of_one_shard_is_an_imbalance():
  layout, hot = laid_out(Placement(1), (80, 80, 80), (2, 2, 2), shards=4)
  found = layout_load(layout, Workload(hot, 64, 4, RowState()))
  assert imbalance(found.rows) == pytest.approx(4 / 3)
  assert imbalance(np.zeros(3)) == 1


@pytest.mark.parametrize(
  ('dim', 'lanes'),
  [(128, 0), (256, 0), (64, 0), (16, 0), (48, 128), (192, 256)],
)
def test_only_rows_that_do_not_fit_lanes_are_copied(dim, lanes):
  layout = plan_layout([Table('t', 2**16, dim)], 1, {'t': (1,)})
  work = Workload({'t': (1,)}, 8, 1, RowState(1, 0))
  assert copies_memory(layout, work) == 2 * 2**16 * lanes * 4


@pytest.mark.parametrize('hotness', [(1, 1), (4, 6)])
@pytest.mark.parametrize('placement', ['row_wise', 'table_wise'])
def test_bytes_sent_are_those_of_the_compiled_step(hotness, placement):
  config = default.get_config()
  config.data.expected.dense = 4
  config.data.expected.rows = (8_000, 50_000)
  config.data.expected.hotness = hotness
  config.model.bottom = config.model.top = (8,)
  config.tables.placement = placement
  task = build_task(config, *open_schema(config))
  step = compiled.compile_step(task, 1024, jax.devices())
  found = sum(
    c.bytes * c.count
    for c in step.collectives
    if c.kind == 'all-to-all' and not c.overflow
  )
  work = Workload(task.collection.hotness, 1024, 8, RowState())
  assert layout_load(task.collection.layout, work).sent == pytest.approx(found)
