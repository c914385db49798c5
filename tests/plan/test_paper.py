"""Bytes and least times of compiled steps."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import synthetic
from dlrm_jax.hlo import Collective
from dlrm_jax.plan import chips, paper
from dlrm_jax.plan.products import products
from dlrm_jax.plan.program import Program
from dlrm_jax.plan.traffic import memory_bytes
from tests.absent_chips import needs_compiler

ROWS, READ, WIDTH = 100_000, 256, 128


def step(table, ids):
  """Reads rows, and adds to them."""
  rows = table.at[ids].get(mode='fill')
  return table.at[ids].add(-0.1 * rows, mode='drop'), rows.sum()


def loop(table, ids):
  """Ten steps."""
  return jax.lax.fori_loop(0, 10, lambda _, x: step(x[0], ids), (table, 0.0))


def text_of(function, device):
  mesh = Mesh([device], ('x',))
  whole = NamedSharding(mesh, PartitionSpec())
  table = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=whole)
  ids = jax.ShapeDtypeStruct((READ,), jnp.int32, sharding=whole)
  compiled_step = jax.jit(function, donate_argnums=0).lower(table, ids)
  return compiled_step.compile().as_text()


@needs_compiler
@pytest.mark.parametrize(('function', 'times'), [(step, 1), (loop, 10)])
def test_of_a_table_the_rows_count_that_are_read_and_written(function, times):
  device, *_ = chips.find_devices('v5e:1x1')
  found = memory_bytes(Program(text_of(function, device)))
  rows = READ * WIDTH * 4
  # Gathered once, then read and written by the scatter; and the ids.
  assert 3 * rows * times <= found < 4 * rows * times


def test_a_copied_table_counts_twice():
  """Without donation the new table is another one."""
  text = (
    jax.jit(lambda table: table.at[3].add(1.0))
    .lower(jnp.zeros((ROWS, WIDTH)))
    .compile()
    .as_text()
  )
  assert memory_bytes(Program(text)) >= 2 * ROWS * WIDTH * 4


def chain(x):
  for _ in range(10):
    x = jnp.tanh(x @ x)
  return x


def chain_in_a_loop(x):
  return jax.lax.fori_loop(0, 10, lambda _, y: jnp.tanh(y @ y), x)


@pytest.mark.parametrize(('function', 'trips'), [
  (chain, 1), (chain_in_a_loop, 10)
])  # fmt: skip
@pytest.mark.parametrize(
  'where', ['cpu', pytest.param('v5e:1x1', marks=needs_compiler)]
)
def test_products_in_loops_count_as_often_as_they_run(function, trips, where):
  here = jax.devices()[0]
  device = here if where == 'cpu' else chips.find_devices(where)[0]
  place = NamedSharding(Mesh([device], ('x',)), PartitionSpec())
  x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=place)
  step = jax.jit(function).lower(x).compile()
  program = Program(step.as_text())
  counted = products(program)
  assert counted == 10 * 2 * 256**3
  assert products(program, loops=False) == counted / trips
  # What the compiler says is of one trip.
  said = step.cost_analysis()['flops']
  assert said == pytest.approx(counted / trips, rel=0.01)


@needs_compiler
@pytest.mark.slow
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_micro_batches_change_no_count_of_operations():
  import dlrm_jax

  found = []
  for size in (0, 128):
    config = synthetic.get_config()
    config.train.batch_size, config.train.micro_batch = 1024, size
    plan = dlrm_jax.plan(config, devices=1, compile='v5e:1x1')
    found.append(plan['compiled']['flops'])
  assert found[1] == pytest.approx(found[0], rel=0.1)


def of(kind, size, group=8, overflow=False):
  return Collective(kind, f'f32[{size // 4}]', group, size, overflow)


V5E = paper.CHIPS['v5e']


@pytest.mark.parametrize(
  ('topology', 'exchange', 'links'),
  [
    # A ring's bytes, of 8 chips, over 20 directions of links.
    ('v5e:2x4', of('all-reduce', 9_000_000), 20 / 8),
    # Of 4 of them: 4 / 6 of a ring's bytes over the two links of a corner.
    ('v5e:2x4', of('all-reduce', 9_000_000, group=4), 2 * 6 / 4),
    ('v5e:2x4', of('all-to-all', 9_000_000, group=4), 2),
    # 4 chips send 4 / 7 of their bytes each over 2 links to the other half.
    ('v5e:2x4', of('all-to-all', 9_000_000), 2 / (4 * 4 / 7)),
    # A ring of 16: 8 chips send 8 / 15 each, over both ends.
    ('v5e:1x16', of('all-to-all', 9_000_000, group=16), 2 / (8 * 8 / 15)),
    ('v5e:1x16', of('all-gather', 9_000_000, group=16), 2),
  ],
)
def test_an_exchange_takes_as_long_as_its_narrowest_place(
  topology, exchange, links
):
  found = paper.exchange_seconds([exchange], topology, V5E)
  assert found == pytest.approx(9e6 / 45e9 / links)
  twice = paper.exchange_seconds([exchange, exchange], topology, V5E)
  assert twice == pytest.approx(2 * found)


def test_one_chip_and_rounds_of_overflow_exchange_nothing():
  exchange = of('all-to-all', 1000)
  assert paper.exchange_seconds([exchange], 'v5e:1x1', V5E) == 0
  exchange = of('all-to-all', 1000, overflow=True)
  assert paper.exchange_seconds([exchange], 'v5e:2x4', V5E) == 0


def test_the_slowest_part_binds():
  found = paper.on_paper('v5e:1x1', 197e9, 819_000_000 * 2, [])
  assert found == pytest.approx((1e-3, 2e-3, 0.0))
  assert found.binding == 'memory'
  lines = list(paper.paper_lines(found, 'v5e:1x1', 2048))
  assert lines[0].endswith('as memory binds: at most 1,020,000 examples/s')


@needs_compiler
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_a_compiled_step_tells_its_bound(capsys):
  import dlrm_jax

  fields = dlrm_jax.plan('synthetic', devices=1, compile='v5e:1x1')['compiled']
  bound = fields['on_paper']
  assert fields['fits']
  assert bound['products'] == pytest.approx(fields['flops'] / 197e12)
  assert bound['memory'] == pytest.approx(fields['memory_bytes'] / 819e9)
  assert bound['exchange'] == 0
  assert bound['examples_per_second'] == pytest.approx(4096 / bound['seconds'])
  # At least layers and the rows of a batch are read, at most a few times.
  assert 4096 * 13 * 64 < fields['memory_bytes'] < 200 * 4096 * 13 * 64
  assert f'as {bound["binding"]} binds' in capsys.readouterr().out
