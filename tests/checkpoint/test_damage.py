"""Damage of a checkpoint never passes; nothing else is called damage."""

import contextlib
import os
import random
import resource
import shutil

import jax
import numpy as np
import optax
import pytest

from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.table import Placement, Table
from dlrm_jax.errors import InputError
from dlrm_jax.losses import binary_cross_entropy
from dlrm_jax.models.dlrm import DLRM
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, abstract_state, create_state
from tests import commands


def make_task(placement):
  table = Table('x', 700, 16, placement=placement)
  return Task(
    network=Network(
      collection=EmbeddingCollection((Feature('x', Plain(table)),), shards=2),
      model=DLRM((16,), (4,)),
      dense_features=1,
    ),
    heads=(Head(binary_cross_entropy),),
    tx=optax.sgd(0.1),
    table_tx=rowwise(optax.trace(0.9)),
  )


TASKS = {
  'the same layout': make_task(Placement()),
  'another layout': make_task(Placement(columns=2)),
}
TASK = TASKS['the same layout']


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('checkpoints')
  state = create_state(TASK, jax.random.key(0))
  checkpoints = Checkpoints(folder, TASK.collection.layout, keep=3)
  for step, auc in ((10, 0.8), (20, 0.7)):
    checkpoints.save(step, state, {'auc': auc})
  checkpoints.close()
  return folder


@pytest.fixture
def folder(saved, tmp_path):
  shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
  return tmp_path


def restored(folder, task, step=20):
  checkpoints = Saved(folder, task.collection.layout)
  return checkpoints.restore(step, abstract_state(task))


def same(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def files_of(checkpoint):
  return sorted(path for path in checkpoint.rglob('*') if path.is_file())


def outcome(folder, task, want):
  """'right', or the message; a restore with other numbers fails."""
  try:
    found = restored(folder, task)
  except InputError as error:
    told = str(error)
  else:
    assert same(found, want)
    return 'right'
  assert str(folder / '20') in told
  assert len(told.splitlines()) == 1
  return told


@pytest.mark.parametrize('layout', TASKS)
def test_a_flipped_bit_is_named_or_does_not_matter(folder, layout):
  want = restored(folder, TASKS[layout])
  draw, found = random.Random(0), []
  data = [path for path in files_of(folder / '20') if '/d/' in str(path)]
  for files in (files_of(folder / '20'), data):
    for _ in range(40):
      path = draw.choice(files)
      good = path.read_bytes()
      bad = bytearray(good)
      bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
      path.write_bytes(bad)
      found.append(outcome(folder, TASKS[layout], want))
      path.write_bytes(good)
  messages = {message for message in found if message != 'right'}
  assert len(messages) > 10
  assert all('go on from step 10' in message for message in messages)


DAMAGES = {
  'deleted': lambda path: path.unlink(),
  'emptied': lambda path: path.write_bytes(b''),
  'cut in half': lambda path: os.truncate(path, path.stat().st_size // 2),
  'garbage': lambda path: path.write_bytes(
    random.Random(1).randbytes(path.stat().st_size)
  ),
  'a list': lambda path: path.write_bytes(b'[1]'),
  'a text': lambda path: path.write_bytes(b'"text"'),
  'an empty object': lambda path: path.write_bytes(b'{}'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_any_file_that_is_damaged_is_named_or_does_not_matter(folder, damage):
  want = restored(folder, TASK)
  for number, path in enumerate(files_of(folder / '20')):
    other = folder.parent / f'{folder.name}-{number}'
    shutil.copytree(folder, other)
    DAMAGES[damage](other / path.relative_to(folder))
    told = outcome(other, TASK, want)
    needed = path.relative_to(folder).parts[1] in ('layout', 'checksums')
    if needed and path.name != 'commit_success.txt':
      assert f'20: damaged: {other / path.relative_to(folder).parent}' in told
      assert 'move this folder away to go on from step 10' in told


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_metric_of_another_checkpoint_is_passed_over_with_a_word(
  folder, damage, capsys
):
  DAMAGES[damage](folder / '10' / 'metrics' / 'metrics')
  assert Saved(folder, TASK.collection.layout).best == 20
  assert '10: not taken for the best' in capsys.readouterr().out


def test_a_checkpoint_whose_metric_is_damaged_is_not_removed(folder):
  DAMAGES['emptied'](folder / '10' / 'metrics' / 'metrics')
  checkpoints = Checkpoints(folder, TASK.collection.layout, keep=1)
  state = create_state(TASK, jax.random.key(0))
  for step in (30, 40):
    checkpoints.save(step, state, {'auc': 0.9 - step / 1000})
  checkpoints.close()
  assert checkpoints.steps == [10, 30, 40]


def test_what_is_no_checkpoint_is_passed_over_with_a_word(folder, capsys):
  (folder / '40').mkdir()
  (folder / '50').write_text('a file')
  (folder / 'tmp').mkdir()
  checkpoints = Saved(folder, TASK.collection.layout)
  assert (checkpoints.latest, checkpoints.best) == (20, 10)
  assert checkpoints.steps == [10, 20]
  told = capsys.readouterr().out.splitlines()
  assert sorted(line.split(':')[0] for line in told) == [
    str(folder / '40'), str(folder / '50'),
  ]  # fmt: skip


def test_without_another_checkpoint_nobody_is_sent_to_one(folder):
  shutil.rmtree(folder / '10')
  DAMAGES['emptied'](folder / '20' / 'layout' / 'metadata')
  with pytest.raises(InputError, match='there is no other checkpoint'):
    restored(folder, TASK)


def test_a_checkpoint_removed_while_it_is_read_is_called_so(
  folder, monkeypatch
):
  checkpoints = Saved(folder, TASK.collection.layout)
  abstract = abstract_state(TASK)
  monkeypatch.setattr(
    Saved,
    'steps',
    property(lambda self: shutil.rmtree(folder / '20') or [10, 20]),
  )
  with pytest.raises(InputError, match='20: removed while it was read'):
    checkpoints.restore(20, abstract)


@contextlib.contextmanager
def as_nobody(*folders):
  """Without the rights of root, but those to look into some folders."""
  for path in folders:
    path.chmod(path.stat().st_mode | 0o555)
  os.seteuid(65534)
  if not os.access(jax.__file__, os.R_OK, effective_ids=True):
    os.seteuid(0)
    pytest.skip('nobody may read the libraries here')
  try:
    yield
  finally:
    os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can become nobody')
@pytest.mark.parametrize(
  'victim', ['', 'layout/metadata', 'state/manifest.ocdbt']
)
def test_what_may_not_be_read_is_not_called_damaged(folder, victim):
  inside = [path for path in folder.rglob('*') if path.is_dir()]
  abstract = abstract_state(TASK)
  checkpoints = Saved(folder, TASK.collection.layout)
  above = [path for path in folder.parents if 'pytest' in str(path)]
  with as_nobody(*above, folder, *inside):
    os.seteuid(0)
    (folder / '20' / victim).chmod(0)
    os.seteuid(65534)
    with pytest.raises(InputError, match=r'cannot be read: ') as raised:
      checkpoints.restore(20, abstract)
  assert f'{folder / "20" / victim}' in str(raised.value)
  assert 'ermission denied' in str(raised.value)
  assert 'damaged' not in str(raised.value)


def test_too_few_descriptors_are_not_called_damage(folder):
  abstract = abstract_state(TASK)
  checkpoints = Saved(folder, TASK.collection.layout)
  free = os.dup(0)
  os.close(free)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  assert checkpoints.steps == [10, 20]
  resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
  try:
    with pytest.raises(InputError, match=r'cannot be read: .*oo many open'):
      checkpoints.restore(20, abstract)
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Writes of Orbax that fail late may find its event loop closed.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk_keeps_the_last_checkpoint_and_is_told_in_one_line(folder):
  checkpoints = Checkpoints(folder, TASK.collection.layout, keep=3)
  state = create_state(TASK, jax.random.key(0))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
  try:
    checkpoints.save(30, state, {})
    with pytest.raises(InputError, match=r'30: cannot be written: ') as raised:
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'File too large' in str(raised.value)
  assert 'the same command goes on from step 20' in str(raised.value)
  assert len(str(raised.value).splitlines()) == 1
  checkpoints.close()
  again = Checkpoints(folder, TASK.collection.layout, keep=3)
  assert again.steps == [10, 20]
  again.save(30, state, {})
  again.close()
  assert same(restored(folder, TASK, 30), restored(folder, TASK, 20))


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can become nobody')
def test_a_right_lost_in_the_midst_of_a_run_is_told_in_one_line(folder):
  checkpoints = Checkpoints(folder, TASK.collection.layout, keep=3)
  state = create_state(TASK, jax.random.key(0))
  inside = [path for path in folder.rglob('*') if path.is_dir()]
  above = [path for path in folder.parents if 'pytest' in str(path)]
  message = r'30: cannot be written: .*ermission denied.* on from step 20'
  with (
    as_nobody(*above, folder, *inside),
    pytest.raises(InputError, match=message),
  ):
    checkpoints.save(30, state, {})
  checkpoints.close()
  assert checkpoints.steps == [10, 20]


LATE = """
import asyncio, gc, pathlib, sys, threading
import tensorstore
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.embedding.layout import Layout
Checkpoints(pathlib.Path(sys.argv[1]), Layout(1, {}, {}, {}), keep=1)
promise, future = tensorstore.Promise.new()
loop = asyncio.new_event_loop()
async def read():
  await future
tasks = [loop.create_task(read())]
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
promise.set_result(1)
class Other:
  def __del__(self):
    raise ValueError('another error')
Other()
import os
sys.stderr.flush()
os._exit(0)
"""


def test_writes_that_end_after_a_failed_save_print_nothing(tmp_path):
  done = commands.run(['-c', LATE, str(tmp_path)])
  assert done.status == 0
  assert 'Event loop is closed' not in done.stderr
  assert 'ValueError: another error' in done.stderr
