"""Tables and states of any storage are saved, restored, moved and checked."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.checkpoint.stored import checksum_of
from dlrm_jax.embedding.low_precision import (
  BFLOAT16,
  FLOAT16,
  INT2,
  INT4,
  INT8,
  STORAGES,
)
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement
from dlrm_jax.errors import InputError
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step
from tests.checkpoint.test_devices import (
  make_batch,
  make_task,
  on,
  restored,
  saved,
)
from tests.checkpoint.test_moving import PLACEMENTS
from tests.embedding.test_placements import families, logical

LOW = FLOAT16, BFLOAT16, INT8, INT4, INT2
MIXED = INT8, FLOAT32, BFLOAT16
STATES = FLOAT32, BFLOAT16, BFLOAT16
"""Storages of the optimizer's states, of the same tables."""


def task_of(
  placement=PLACEMENTS['row-wise'],
  shards=8,
  storages=MIXED,
  states=STATES,
  optimizer='rowwise_adagrad',
):
  return make_task(
    [placement] * 3, shards, optimizer, storages=storages, states=states
  )


def values_of(task, state):
  """Every table in float32, of the first node."""
  collection = task.collection
  return {
    t.name: np.asarray(collection.read(state.tables, t.name))
    for t in collection.tables
  }


def states_of(task, state):
  """Every array of the state in float32, by table; of the first node."""
  layout = task.collection.layout.of_state
  arrays = families(task.table_tx, state.tables, state.table_state)
  found = [logical(layout, family) for family in arrays[1:]]
  return {
    name: [x.get((name, None), x.get((name, 0))) for x in found]
    for name in layout.rows
  }


@pytest.fixture(scope='module')
def trained():
  """A state after one step."""
  task = task_of()
  state = new_state(task, jax.random.key(0))
  batch = sharding.send(make_batch(0))
  return jax.device_get(compiled_step(task)(state, batch)[0])


def test_a_step_moves_rows_of_every_storage(trained):
  first = values_of(task_of(), new_state(task_of(), jax.random.key(0)))
  for name, values in values_of(task_of(), trained).items():
    assert np.abs(values - first[name]).max() > 0.05
  for (sums,) in states_of(task_of(), trained).values():
    assert sums.max() > 0


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_the_same_layout_is_restored_bit_by_bit(tmp_path, trained, devices):
  saved(tmp_path, task_of(), jax.device_put(trained))
  with on(devices):
    state = restored(tmp_path, task_of())
    jax.tree.map(np.testing.assert_array_equal, state, trained)
  noted = json.loads((tmp_path / '1' / 'checksums' / 'metadata').read_text())
  names = {
    'tables.rows_4_int8.codes',
    'tables.rows_4_int8.line',
    'tables.rows_4_state_bfloat16',
    'tables.bags_4_bfloat16_state_bfloat16',
    'table_state.0.sum_of_squares.rows_4_state_bfloat16',
  }
  assert names < noted['arrays'].keys()


@pytest.mark.parametrize(
  ('placement', 'shards', 'devices', 'columns_change'),
  [
    ('row-wise', 2, 2, False),
    ('row-wise', 4, 1, False),
    ('table-wise', 4, 4, False),
    ('replicated', 2, 2, False),
    ('independent', 2, 2, False),
    ('grid', 8, 4, True),
    ('column-wise', 4, 4, True),
  ],
)
def test_rows_move_as_they_are_kept_unless_columns_change(
  tmp_path, trained, placement, shards, devices, columns_change
):
  old, new = task_of(), task_of(PLACEMENTS[placement], shards)
  saved(tmp_path / 'old', old, jax.device_put(trained))
  with on(devices):
    moved = restored(tmp_path / 'old', new)
    saved(tmp_path / 'new', new, moved)
  back = restored(tmp_path / 'new', old)
  want, then = values_of(old, trained), values_of(new, jax.device_get(moved))
  sums, back_sums = states_of(old, trained), states_of(old, back)
  for name, values in values_of(old, back).items():
    if columns_change or placement == 'independent':
      np.testing.assert_allclose(back_sums[name], sums[name], 2**-7)
    else:
      np.testing.assert_array_equal(back_sums[name], sums[name])
    if columns_change or placement == 'independent':
      np.testing.assert_allclose(then[name], want[name], 2**-8, 0.01)
      np.testing.assert_allclose(values, want[name], 2**-8, 0.01)
    else:
      np.testing.assert_array_equal(then[name], want[name])
      np.testing.assert_array_equal(values, want[name])


@pytest.mark.parametrize(
  'optimizer',
  ['rowwise_adagrad', pytest.param('adam', marks=pytest.mark.slow)],
)
@pytest.mark.parametrize('now', [FLOAT32, BFLOAT16], ids=['wider', 'narrower'])
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_a_state_is_read_into_the_storage_that_is_wanted(
  tmp_path, optimizer, now
):
  then = FLOAT32 if now == BFLOAT16 else BFLOAT16
  before = task_of(states=(then, then, then), optimizer=optimizer)
  after = task_of(
    PLACEMENTS['table-wise'], 4, states=(now, now, now), optimizer=optimizer
  )
  step = compiled_step(before)
  state = new_state(before, jax.random.key(0))
  state, _ = step(state, sharding.send(make_batch(0)))
  saved(tmp_path, before, state)
  wanted = states_of(before, jax.device_get(state))
  found = states_of(after, jax.device_get(restored(tmp_path, after)))
  for name, arrays in found.items():
    rounded = now.decode(now.encode(np.float32(wanted[name]), None), 4)
    np.testing.assert_array_equal(arrays, rounded)
    assert np.max(arrays) > 0


@pytest.mark.parametrize(
  ('storages', 'states', 'optimizer', 'devices'),
  [
    (MIXED, STATES, 'rowwise_adagrad', 2),
    pytest.param(
      (FLOAT16, INT4, INT2),
      (BFLOAT16, BFLOAT16, FLOAT32),
      'adam',
      8,
      marks=pytest.mark.slow,
    ),
    pytest.param(
      (BFLOAT16, FLOAT32, INT8),
      (BFLOAT16, BFLOAT16, BFLOAT16),
      'adagrad',
      4,
      marks=pytest.mark.slow,
    ),
  ],
)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_a_restored_state_learns_bit_by_bit_what_the_saved_one_does(
  tmp_path, storages, states, optimizer, devices
):
  task = task_of(storages=storages, states=states, optimizer=optimizer)
  with on(devices):
    step, state = compiled_step(task), new_state(task, jax.random.key(0))
    state, _ = step(state, sharding.send(make_batch(0)))
    saved(tmp_path, task, state)
    wanted, _ = step(state, sharding.send(make_batch(1)))
    found, _ = step(restored(tmp_path, task), sharding.send(make_batch(1)))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_state_that_is_not_kept_as_its_layout_says_is_refused(tmp_path):
  """As if another program had written sums in float32."""
  before, after = (
    task_of(states=(state, FLOAT32, FLOAT32)) for state in (FLOAT32, BFLOAT16)
  )
  saved(tmp_path, before, new_state(before, jax.random.key(0)))
  path = tmp_path / '1' / 'layout' / 'metadata'
  layout = json.loads(path.read_text())
  layout['stacks']['rows_4_int8']['state'] = 'bfloat16'
  path.write_text(json.dumps(layout))
  noted = tmp_path / '1' / 'checksums' / 'metadata'
  sums = json.loads(noted.read_text())
  noted.write_text(json.dumps({**sums, 'layout': checksum_of(layout)}))
  with pytest.raises(
    InputError, match=r'rows_4_int8 is float32; expected uint16, as the layout'
  ):
    restored(tmp_path, after)


def test_a_changed_code_differs_from_its_checksum(tmp_path, trained):
  state = jax.tree.map(np.array, trained)
  saved(tmp_path / 'good', task_of(), jax.device_put(state))
  state.tables['rows_4_int8']['codes'][0, 0] ^= 1
  saved(tmp_path / 'bad', task_of(), jax.device_put(state))
  sums = '1/checksums'
  shutil.rmtree(tmp_path / 'bad' / sums)
  shutil.copytree(tmp_path / 'good' / sums, tmp_path / 'bad' / sums)
  for task in (task_of(), task_of(Placement(spread=1))):
    with pytest.raises(InputError, match=r'codes.*differ from their checksum'):
      restored(tmp_path / 'bad', task)


@pytest.mark.parametrize('now', STORAGES.values(), ids=STORAGES)
@pytest.mark.parametrize('then', [FLOAT32, INT8], ids=['float32', 'int8'])
def test_rows_are_kept_anew_where_the_config_says_so(tmp_path, then, now):
  before, after = (
    task_of(storages=(storage, FLOAT32, FLOAT32)) for storage in (then, now)
  )
  state = new_state(before, jax.random.key(0))
  saved(tmp_path, before, state)
  values = values_of(before, state)
  got = values_of(after, restored(tmp_path, after))
  kept = now.encode(values['a'], None)
  np.testing.assert_array_equal(got['a'], now.decode(kept, 4))
  for name in 'bc':
    np.testing.assert_array_equal(got[name], values[name])


@pytest.mark.parametrize(
  ('storages', 'value', 'message'),
  [
    (LOW, np.nan, 'column 2 is nan.*; choose another checkpoint'),
    (LOW, -np.inf, 'column 2 is -inf'),
    ([FLOAT16], 7e5, '700000, for which float16 has no number; keep the table'),
    ([BFLOAT16], 3.4e38, 'bfloat16 cannot keep'),
    ([INT4, INT2], 3e7, 'to 3e[+]07, which int[42] cannot keep'),
  ],
)
def test_what_a_storage_cannot_keep_is_refused(
  tmp_path, storages, value, message
):
  before = task_of(storages=(FLOAT32, FLOAT32, FLOAT32))
  state = new_state(before, jax.random.key(0))
  (block,) = before.collection.layout.blocks['a']
  row = int(before.collection.layout.locate(block, np.array(7)))
  tables = jax.tree.map(np.array, state.tables)
  by_row = tables[block.stack].reshape(-1, 4)
  by_row[row, 2] = value
  bad = dataclasses.replace(state, tables=jax.device_put(tables))
  saved(tmp_path, before, bad)
  for storage in storages:
    after = task_of(storages=(storage, FLOAT32, FLOAT32))
    with pytest.raises(InputError, match=f'table a, row 7: .*{message}'):
      restored(tmp_path, after)
