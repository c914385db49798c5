import dataclasses
import math
import shutil

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts

from dlrm_jax import sharding
from dlrm_jax.checkpoint import checksums
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, abstract_state, create_state


def make_task(rows=9, dim=4, name='x', table_tx=None, shards=1):
  table = Table(name, rows, dim)
  return Task(
    network=Network(
      collection=EmbeddingCollection((Feature(name, Plain(table)),), shards),
      model=DLRM((dim,), (4,)),
      dense_features=1,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=optax.adam(0.1),
    table_tx=rowwise(table_tx or optax.adam(0.1)),
  )


def opened(folder, task, keep=None):
  layout = task.collection.layout
  return Checkpoints(folder, layout, keep) if keep else Saved(folder, layout)


def restored(folder, step, task):
  return opened(folder, task).restore(step, abstract_state(task))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Six checkpoints, the second one with the best AUC; two are kept."""
  folder = tmp_path_factory.mktemp('checkpoints')
  state = create_state(make_task(), jax.random.key(0))
  checkpoints = opened(folder, make_task(), keep=2)
  for step, auc in enumerate((0.5, 0.9, 0.6, None, 0.7, 0.8), 1):
    checkpoints.save(step, state, {} if auc is None else {'auc': auc})
  checkpoints.close()
  return folder, state


def test_the_last_ones_and_the_best_are_kept(saved):
  checkpoints = opened(saved[0], make_task())
  assert checkpoints.steps == [2, 5, 6]
  assert checkpoints.best == 2
  assert checkpoints.latest == 6


def test_a_state_comes_back_bit_equal_and_can_be_donated(saved):
  state = restored(saved[0], 2, make_task())
  jax.tree.map(np.testing.assert_array_equal, state, saved[1])
  jax.jit(lambda x: x, donate_argnums=0)(state)
  assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_an_evaluation_reads_no_state_of_optimizers(saved):
  checkpoints = opened(saved[0], make_task())
  abstract = abstract_state(make_task())
  state = checkpoints.restore_for_evaluation(2, abstract)
  assert state.opt_state is None
  assert state.table_state is None
  for field in ('step', 'params', 'tables'):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(state, field),
      getattr(saved[1], field),
    )


@pytest.mark.parametrize(
  ('task', 'message'),
  [
    (make_task(8), r'table x .* 9 x 4 in .* 8 x 4 by .*--min_count'),
    (make_task(dim=6), r'table x .* 9 x 4 in .* 9 x 6 by .*config\.model\.dim'),
    (make_task(name='y'), r'table x .* 9 x 4 in .* absent by .*columns'),
    (
      make_task(table_tx=optax.sgd(0.1)),
      r'table_state/0/count is int32\(\) in .* absent by',
    ),
  ],
)
def test_what_does_not_fit_is_named_with_both_shapes(saved, task, message):
  with pytest.raises(InputError, match=message):
    restored(saved[0], 2, task)


def test_large_arrays_are_written_in_pieces_that_can_be_read_alone(tmp_path):
  task = make_task(rows=2**17, dim=32, table_tx=optax.sgd(0.1))
  checkpoints = opened(tmp_path, task, keep=1)
  checkpoints.save(1, create_state(task, jax.random.key(0)), {})
  checkpoints.close()
  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(tmp_path / '1' / 'state').item_metadata
  pieces = stored['tables']['rows_32'].storage.chunk_shape
  assert pieces == (2**13, 128)  # 4 MiB


def bytes_read():
  metrics = ts.experimental_collect_matching_metrics(
    '/tensorstore/kvstore/file/bytes_read'
  )
  return sum(x['value'] for metric in metrics for x in metric['values'])


@pytest.mark.parametrize(('then', 'now'), [(1, 1), (8, 8), (8, 1), (1, 8)])
def test_nothing_of_a_large_table_is_read_twice(
  tmp_path, then, now, monkeypatch
):
  monkeypatch.setattr(checksums, 'PIECE', 2**20)
  monkeypatch.setattr(checksums, 'SMALL', 2**20)
  task = make_task(2**17, 32, table_tx=optax.sgd(0.1), shards=8)
  with sharding.use(sharding.make_mesh(jax.devices()[:then])):
    state = create_state(task, jax.random.key(0))
    checkpoints = opened(tmp_path, task, keep=1)
    checkpoints.save(1, state, {})
    checkpoints.close()
  paths = (tmp_path / '1' / 'state').rglob('*')
  size = sum(path.stat().st_size for path in paths if path.is_file())
  before = bytes_read()
  with sharding.use(sharding.make_mesh(jax.devices()[:now])):
    found = restored(tmp_path, 1, task)
  assert 0 < bytes_read() - before <= 1.05 * size
  jax.tree.map(np.testing.assert_array_equal, found, state)


def test_a_step_that_was_not_kept_is_refused(saved):
  with pytest.raises(InputError, match='step 3; there are: 2, 5, 6'):
    restored(saved[0], 3, make_task())


def test_a_checkpoint_without_a_layout_is_of_an_earlier_version(
  saved, tmp_path
):
  shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / '5' / 'layout')
  shutil.rmtree(tmp_path / '5' / 'checksums')
  with pytest.raises(InputError, match='5: written by an earlier version'):
    restored(tmp_path, 5, make_task())


def test_a_checkpoint_without_checksums_is_taken_with_a_word(
  saved, tmp_path, capsys
):
  shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / '5' / 'checksums')
  state = restored(tmp_path, 5, make_task())
  jax.tree.map(np.testing.assert_array_equal, state, saved[1])
  assert '5: written without checksums' in capsys.readouterr().out


@pytest.mark.parametrize('undefined', [None, math.nan, math.inf])
def test_an_auc_that_is_not_defined_never_removes_the_best(tmp_path, undefined):
  state = create_state(make_task(), jax.random.key(0))
  checkpoints = opened(tmp_path, make_task(), keep=1)
  checkpoints.save(10, state, {'auc': 0.7, 'log_loss': math.inf})
  scores = {} if undefined is None else {'auc': undefined}
  for step in (20, 30):
    checkpoints.save(step, state, scores)
  checkpoints.close()
  assert opened(tmp_path, make_task()).steps == [10, 30]
  assert opened(tmp_path, make_task()).best == 10


def test_the_best_is_the_lowest_where_less_is_better(tmp_path):
  layout = make_task().collection.layout
  state = create_state(make_task(), jax.random.key(0))
  objective = Objective('log_loss', higher=False)
  checkpoints = Checkpoints(tmp_path, layout, keep=1, objective=objective)
  for step, loss in enumerate((0.6, 0.5, 0.55, math.nan), 1):
    checkpoints.save(step, state, {'log_loss': loss, 'auc': 0.1 * step})
  checkpoints.close()
  assert checkpoints.steps == [2, 4]
  assert checkpoints.best == 2


def test_other_dtypes_are_refused_by_name(tmp_path):
  state = create_state(make_task(), jax.random.key(0))
  tables = {name: x.astype(np.int8) for name, x in state.tables.items()}
  checkpoints = opened(tmp_path, make_task(), keep=1)
  checkpoints.save(1, dataclasses.replace(state, tables=tables), {})
  checkpoints.close()
  message = r'tables/rows_\d+ is int8; expected float32, as the layout'
  with pytest.raises(InputError, match=message):
    restored(tmp_path, 1, make_task())


def test_opened_to_read_it_changes_nothing(saved, tmp_path):
  shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
  for name in ('7.orbax-checkpoint-tmp', '4.removed', '40'):
    (tmp_path / name).mkdir()
  before = sorted(tmp_path.rglob('*'))
  restored(tmp_path, 6, make_task())
  assert sorted(tmp_path.rglob('*')) == before


def test_a_run_removes_what_a_killed_one_left(saved, tmp_path):
  shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
  for name in ('7.orbax-checkpoint-tmp', '4.removed', 'mine'):
    (tmp_path / name).mkdir()
  opened(tmp_path, make_task(), keep=2).close()
  assert {path.name for path in tmp_path.iterdir()} == {'2', '5', '6', 'mine'}


def test_what_has_the_name_of_a_checkpoint_and_is_none_is_moved_away(
  tmp_path, capsys
):
  (tmp_path / '7').mkdir()
  (tmp_path / '7' / 'mine').write_text('precious')
  (tmp_path / '8').write_text('a file')
  state = create_state(make_task(), jax.random.key(0))
  checkpoints = opened(tmp_path, make_task(), keep=1)
  for step in (6, 7, 8):
    checkpoints.save(step, state, {})
  checkpoints.close()
  assert checkpoints.steps == [8]
  assert [x.read_text() for x in tmp_path.glob('7.*/mine')] == ['precious']
  assert [x.read_text() for x in tmp_path.glob('8.*')] == ['a file']
  assert '7: in the way of a checkpoint, now 7.' in capsys.readouterr().out


def test_without_checkpoints_there_is_none(tmp_path):
  checkpoints = opened(tmp_path / 'none', make_task())
  assert checkpoints.best is None
  assert checkpoints.latest is None
