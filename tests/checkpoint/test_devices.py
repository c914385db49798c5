"""A checkpoint does not care on which devices, in which layout it is read."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Composed, Plain, Projected
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.operations import Mult, PathBased
from dlrm_jax.embedding.partitions import QuotientRemainder
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.metrics.binary import summarize
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, abstract_state, new_state
from dlrm_jax.training.step import compiled_step
from tests import commands, job
from tests.checkpoint.test_moving import PLACEMENTS, assert_moved

SIZES = 40, 7, 25
OPTIMIZERS = {
  'sgd': optax.identity,
  'adagrad': scale_by_adagrad,
  'rowwise_adagrad': scale_by_rowwise_adagrad,
  'adam': optax.scale_by_adam,
}


def make_task(
  placements,
  shards,
  optimizer='rowwise_adagrad',
  storages=(FLOAT32, FLOAT32, FLOAT32),
  states=(FLOAT32, FLOAT32, FLOAT32),
):
  """Three tables, the last one read by bags of two."""
  tables = [
    Table(name, rows, 4, placement=placement, storage=storage, state=state)
    for name, rows, placement, storage, state in zip(
      'abc', SIZES, placements, storages, states, strict=True
    )
  ]
  features = tuple(
    Feature(table.name, Plain(table), hotness)
    for table, hotness in zip(tables, (1, 1, 2), strict=True)
  )
  return Task(
    network=Network(
      collection=EmbeddingCollection(features, shards),
      model=DLRM((4,), (4,)),
      dense_features=2,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=optax.sgd(0.1, momentum=0.9),
    table_tx=rowwise(
      optax.chain(OPTIMIZERS[optimizer](), optax.scale_by_learning_rate(0.1))
    ),
  )


def make_batch(seed):
  random = np.random.default_rng(seed)
  ids = [random.integers(-1, rows, 64) for rows in (*SIZES, SIZES[-1])]
  return Batch(
    inputs=Inputs(
      dense=random.normal(size=(64, 2)).astype(np.float32),
      ids=np.stack(ids, 1).astype(np.int32),
    ),
    labels=random.integers(0, 2, 64).astype(np.float32)[:, None],
    weights=np.ones(64, np.float32),
  )


def on(devices):
  return sharding.use(sharding.make_mesh(jax.devices()[:devices]))


def random_state(task):
  """A state of random numbers, wherever they are."""
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jax.device_put(
      (9 * random.normal(size=x.shape)).astype(x.dtype), x.sharding
    ),
    abstract_state(task),
  )


def trained(step, state, seeds):
  """The state some steps later, and their losses."""
  losses = []
  for seed in seeds:
    state, told = step(state, sharding.send(make_batch(seed)))
    losses.append(float(told.loss))
  return state, losses


def families(state, layout):
  """Families of arrays with rows: {stack: array} each, by path."""
  found = {}
  tree = {'tables': state.tables, 'table_state': state.table_state}
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    *prefix, last = jax.tree_util.keystr(
      path, simple=True, separator='/'
    ).split('/')
    if last in layout.stacks:
      found.setdefault('/'.join(prefix), {})[last] = np.asarray(x)
  return found


def assert_same(before, old, after, new):
  """Two states are the same but for their layouts."""
  then, now = families(before, old), families(after, new)
  assert then.keys() == now.keys()
  for family in then:
    assert_moved(old, then[family], new, now[family])
  for field in ('step', 'params', 'opt_state'):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(before, field),
      getattr(after, field),
    )


def saved(folder, task, state):
  checkpoints = Checkpoints(folder, task.collection.layout, keep=1)
  checkpoints.save(1, state, {})
  checkpoints.close()


def restored(folder, task):
  checkpoints = Saved(folder, task.collection.layout)
  abstract = abstract_state(task)
  state = checkpoints.restore(checkpoints.latest, abstract)
  wanted = jax.tree.map(lambda x: x.sharding, abstract)
  assert jax.tree.map(lambda x: x.sharding, state) == wanted
  return state


@pytest.mark.parametrize(
  'optimizer',
  [
    *('rowwise_adagrad', 'adam'),
    pytest.param('sgd', marks=pytest.mark.slow),
    pytest.param('adagrad', marks=pytest.mark.slow),
  ],
)
def test_a_tour_of_placements_and_devices_keeps_the_state(tmp_path, optimizer):
  tour = [
    'row-wise',
    'grid',
    'replicated',
    'table-wise',
    'column-wise',
    'independent',
    'table-row-wise',
  ]
  devices = itertools.cycle((8, 1, 4, 2))
  task = make_task([Placement()] * 3, 8, optimizer)
  with on(8):
    state = random_state(task)
    saved(tmp_path / '0', task, state)
  for i, name in enumerate(tour):
    # The middle table goes another way than the others.
    placements = [PLACEMENTS[name], PLACEMENTS[tour[-i]], PLACEMENTS[name]]
    other = make_task(placements, 8, optimizer)
    with on(next(devices)):
      moved = restored(tmp_path / str(i), other)
      assert_same(state, task.collection.layout, moved, other.collection.layout)
      saved(tmp_path / str(i + 1), other, moved)
    task, state = other, moved


def test_the_same_layout_comes_bit_equal_to_any_number_of_devices(
  tmp_path, capsys
):
  task = mixed_task(MIXED, 8)
  with on(8):
    state = random_state(task)
    saved(tmp_path, task, state)
  for devices in (1, 2, 4, 8):
    with on(devices):
      jax.tree.map(
        np.testing.assert_array_equal, restored(tmp_path, task), state
      )
  assert 'anew' not in capsys.readouterr().out


MIXED = {'a': 'row-wise', 'b': 'replicated', 'c': 'grid'}
OTHER = {'a': 'column-wise', 'b': 'table-wise', 'c': 'replicated'}


def mixed_task(kinds, shards):
  placements = [PLACEMENTS[kinds[name]] for name in 'abc']
  return make_task(placements, shards, 'adagrad')


def scored(task, state):
  (tally,) = Evaluator(task)(state, [make_batch(9)]).values()
  return summarize(tally)


def told_on_eight(folder, task, seeds):
  """Scores after three steps, saved there, and losses of the next steps."""
  with on(8):
    step = compiled_step(task)
    state, _ = trained(step, new_state(task, jax.random.key(0)), range(3))
    saved(folder, task, state)
    return scored(task, state), trained(step, state, seeds)[1]


@pytest.mark.slow
def test_training_goes_on_and_is_scored_wherever_it_is_restored(tmp_path):
  task, other = mixed_task(MIXED, 8), mixed_task(OTHER, 4)
  scores, expected = told_on_eight(tmp_path, task, range(3, 8))
  with on(4):
    state = restored(tmp_path, other)
    _, losses = trained(compiled_step(other), state, range(3, 8))
  np.testing.assert_allclose(losses, expected, 1e-6)
  assert len(set(losses)) == 5
  for wanted in (task, other):
    checkpoints = Saved(tmp_path, wanted.collection.layout)
    found = checkpoints.restore_for_evaluation(1, abstract_state(wanted))
    assert scored(wanted, found) == pytest.approx(scores, rel=1e-6)


def composed_task(kinds, shards):
  """The same ids as tables of parts, with layers of their own."""

  def table(name, rows, dim=4):
    return Table(name, rows, dim, placement=PLACEMENTS[kinds[name[0]]])

  encodings = (
    Composed(
      (table('a.1', 7), table('a.2', 6)),
      QuotientRemainder(SIZES[0], (7, 6)),
      Mult(),
      4,
    ),
    Projected(table('b', SIZES[1], 2), 4),
    Composed(
      (table('c', 9),), QuotientRemainder(SIZES[2], (9, 3)), PathBased(5), 4
    ),
  )
  features = tuple(
    Feature(name, encoding, hotness)
    for name, encoding, hotness in zip('abc', encodings, (1, 1, 2), strict=True)
  )
  task = mixed_task(kinds, shards)
  return dataclasses.replace(
    task,
    network=dataclasses.replace(
      task.network, collection=EmbeddingCollection(features, shards)
    ),
  )


@pytest.mark.slow
def test_tables_of_parts_move_and_are_scored_on_one_device(tmp_path):
  task, other = composed_task(MIXED, 8), composed_task(OTHER, 4)
  scores, expected = told_on_eight(tmp_path, task, range(3, 6))
  with on(1):
    found = restored(tmp_path, other)
    again = scored(other, found)
    _, losses = trained(compiled_step(other), found, range(3, 6))
  assert again == pytest.approx(scores, rel=1e-5)
  np.testing.assert_allclose(losses, expected, 1e-5)
  assert len(set(losses)) == 3


JOB = """
import os, pathlib, sys, threading, time
import jax
folder, address, processes, process = [x.split('=')[-1] for x in sys.argv[1:]]
jax.distributed.initialize(address, int(processes), int(process))
from tests.checkpoint.test_devices import *

def resident():
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')

class Peak(threading.Thread):
  most, done = 0, False
  def run(self):
    while not self.done:
      self.most = max(self.most, resident())
      time.sleep(0.002)

with sharding.use(sharding.make_mesh()):
  task = large_task(8)
  state = new_state(task, jax.random.key(0))
  saved(pathlib.Path(folder), task, state)
  del state
  other = large_task(2)
  peak, before = Peak(), resident()
  peak.start()
  moved = restored(pathlib.Path(folder), other)
  peak.done = True
  peak.join()
  for found, wanted in zip(
    jax.tree.leaves(moved),
    jax.tree.leaves(new_state(other, jax.random.key(0))),
    strict=True,
  ):
    np.testing.assert_array_equal(local(found), local(wanted))
print(sum(local(x).nbytes for x in moved.tables.values()), peak.most - before)
jax.distributed.shutdown()  # waits: without process 0 the others would die
"""


def local(x):
  """The part of an array that this process has."""
  return np.asarray(x.addressable_shards[0].data)


def large_task(shards):
  """A table of 2**28 bytes and a small one."""
  tables = Table('a', 2**20, 64), Table('b', 10, 64)
  features = tuple(Feature(table.name, Plain(table)) for table in tables)
  task = mixed_task(MIXED, 8)
  return dataclasses.replace(
    task,
    network=dataclasses.replace(
      task.network,
      collection=EmbeddingCollection(features, shards),
      model=DLRM((64,), (4,)),
    ),
    table_tx=rowwise(optax.sgd(0.1)),
  )


@pytest.mark.slow
def test_processes_write_and_read_their_parts_only(tmp_path):
  done = job.run(['-c', JOB, tmp_path], 2)
  for process in done.values():
    part, grown = map(int, process.stdout.split()[-2:])
    assert 2**27 < part < 1.01 * 2**27
    # Its part on the host and on the device, and what is on its way.
    assert part < grown < 3 * part


def command(devices, *arguments):
  """Runs a command on so many devices; returns what it printed."""
  return commands.run(arguments, environment=commands.devices(devices)).stdout


def results(workdir):
  return json.loads((workdir / 'results.json').read_text())


@pytest.mark.slow
def test_a_run_on_eight_devices_is_evaluated_on_one_and_goes_on_on_four(
  tmp_path,
):
  train = 'train.py', '--config=tests/small.py', f'--workdir={tmp_path}'
  command(8, *train, '--config.tables.placement=auto')
  eight = results(tmp_path)

  printed = command(1, '-m', 'dlrm_jax.evaluate', f'--workdir={tmp_path}')
  one = json.loads(printed.splitlines()[-1])
  assert one['step'] == eight['step']
  assert one['metrics'] == pytest.approx(eight['splits']['test'], rel=1e-5)

  shutil.rmtree(tmp_path / 'checkpoints' / '60')
  printed = command(
    4,
    *train,
    '--config.tables.placement=column_wise',
    '--config.tables.shards=4',
  )
  assert 'tables.shards was 8, is 4' in printed
  assert 'resuming from the checkpoint of step 55' in printed
  assert '55: tables are laid out anew' in printed
  four = results(tmp_path)
  for split, scores in four['splits'].items():
    expected = eight['splits'][split]
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-6)
