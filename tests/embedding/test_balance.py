"""Sums over shards tell what `load` tells of the same layout."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dlrm_jax.embedding.balance import measured
from dlrm_jax.embedding.layout_plan import plan_layout
from dlrm_jax.embedding.load import (
  RowState,
  Workload,
  copies_memory,
  exchange_memory,
  layout_load,
)
from dlrm_jax.embedding.table import Placement, Table

PLACES = [
  *(Placement(spread=spread) for spread in (0, 1, 2, 3, 4)),
  *(Placement(spread, columns=2) for spread in (0, 1, 2)),
]
TABLES = st.lists(
  st.tuples(
    st.integers(1, 10**6),
    st.sampled_from([16, 48, 256]),
    st.sampled_from(PLACES),
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
  ),
  min_size=1,
  max_size=6,
)


def laid(drawn, shards=6):
  tables = [
    Table(f't{i}', rows, dim, placement=place)
    for i, (rows, dim, place, _) in enumerate(drawn)
  ]
  # Two ids or more: all of them are bags.
  hotness = {f't{i}': (2, *each) for i, (*_, each) in enumerate(drawn)}
  work = Workload(hotness, 4096, shards, RowState(1, 0))
  return tables, plan_layout(tables, shards, hotness), work


@hypothesis.given(TABLES)
def test_sums_of_a_layout_are_its_load(drawn):
  tables, layout, work = laid(drawn)
  total, want = (
    measured(layout, tables, work)[0].totals(),
    layout_load(layout, work),
  )
  assert total.sent == pytest.approx(want.sent)
  np.testing.assert_allclose(total.moved, want.moved)
  size = (
    want.bytes + copies_memory(layout, work) + exchange_memory(layout, work)
  )
  assert total.bytes <= size * (1 + 1e-9)


def test_without_holes_the_bytes_are_those_of_the_layout():
  drawn = [(rows, 16, Placement(), [3]) for rows in (50, 7000, 123_456)]
  tables, layout, work = laid(drawn)
  size = layout_load(layout, work).bytes + exchange_memory(layout, work)
  assert measured(layout, tables, work)[0].totals().bytes == size


@hypothesis.given(TABLES, st.sampled_from(PLACES))
def test_a_table_that_is_lifted_leaves_the_sums_of_the_others(drawn, place):
  tables, layout, work = laid(drawn)
  balance, blocks = measured(layout, tables, work)
  others, _ = measured(layout, tables[1:], work)
  left = balance.without(tables[0], blocks['t0'])
  back = left.placed(dataclasses.replace(tables[0], placement=place))
  assert back.totals().sent >= left.totals().sent
  for found, want in zip(left.totals(), others.totals(), strict=True):
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-6)


def test_a_table_is_laid_where_most_room_is():
  drawn = [(9000, 16, Placement(1), [5]) for _ in range(6)]
  tables, layout, work = laid(drawn)
  balance, blocks = measured(layout, tables, work)
  for table in tables[:2]:
    balance = balance.without(table, blocks[table.name])
  both = dataclasses.replace(tables[0], placement=Placement(1))
  totals = balance.placed(both).placed(both).totals()
  assert np.ptp(totals.moved) == pytest.approx(0)
