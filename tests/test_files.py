"""Files appear whole, and are on the disk before they get their names."""

import fcntl
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import pytest

from dlrm_jax import files
from dlrm_jax.errors import InputError


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
  tmp_path, monkeypatch
):
  events = []
  fsync, replace = os.fsync, type(tmp_path).replace
  monkeypatch.setattr(
    os, 'fsync',
    lambda n: (events.append(os.readlink(f'/proc/self/fd/{n}')), fsync(n)),
  )  # fmt: skip
  monkeypatch.setattr(
    type(tmp_path), 'replace',
    lambda a, b: (events.append('rename'), replace(a, b)),
  )  # fmt: skip
  files.write_text(tmp_path / 'plan.json', '{}')
  synced, renamed, folder = events
  assert synced.startswith(str(tmp_path / 'plan.json.'))
  assert (renamed, folder) == ('rename', str(tmp_path))
  assert (tmp_path / 'plan.json').read_text() == '{}'


def test_a_folder_is_published_with_everything_in_it(tmp_path):
  work = files.unfinished_name(tmp_path / 'run')
  (work / 'deep').mkdir(parents=True)
  (work / 'deep' / 'a').write_text('1')
  files.publish(work, tmp_path / 'run')
  assert (tmp_path / 'run' / 'deep' / 'a').read_text() == '1'


def test_what_killed_processes_wrote_is_removed(tmp_path):
  (tmp_path / 'a').mkdir()
  for name in ('a/set.json', 'a/day.20261128', 'plan.json'):
    (tmp_path / name).touch()
    files.unfinished_name(tmp_path / name).touch()
  files.unfinished_name(tmp_path / 'run').mkdir()
  files.remove_unfinished(tmp_path)
  left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*'))
  assert left == ['a', 'a/day.20261128', 'a/set.json', 'plan.json']


def test_an_error_leaves_what_was_there(tmp_path):
  path = tmp_path / 'a'
  path.write_text('old')

  def fail():
    with files.replacing(path) as work:
      work.write_text('new')
      raise InterruptedError

  with pytest.raises(InterruptedError):
    fail()
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_folders_of_killed_processes_beside_a_path_are_removed(
  tmp_path, monkeypatch
):
  left = ['a.csv.0123456789ab', 'a.csv.fedcba987654']
  others = ['a.csv', 'a.csv.gz', 'ba.csv.0123456789ab', 'a.csv.0123456789abc']
  for name in (*left, *others):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'part').write_text('x')
  monkeypatch.chdir(tmp_path)
  with files.beside(pathlib.Path('a.csv')) as work:
    assert {path.name for path in tmp_path.iterdir()} == {*others, work.name}
  assert {path.name for path in tmp_path.iterdir()} == set(others)


_HOLDS = """
import pathlib, sys
from dlrm_jax import files
with files.beside(pathlib.Path(sys.argv[1])) as work:
  (work / 'a').write_text('first')
  print('ready', flush=True)
  sys.stdin.readline()
  files.publish(work / 'a', pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def other(tmp_path):
  """Another process that writes `tmp_path / 'out'`."""
  process = subprocess.Popen(
    [sys.executable, '-c', _HOLDS, str(tmp_path / 'out')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with process:
    assert process.stdout.readline() == 'ready\n'
    yield process
    process.kill()


def test_two_processes_may_write_one_path(tmp_path, other):
  with files.beside(tmp_path / 'out') as work:
    (work / 'a').write_text('second')
    assert len(list(tmp_path.iterdir())) == 2
    files.publish(work / 'a', tmp_path / 'out')
  assert (tmp_path / 'out').read_text() == 'second'
  assert other.communicate('\n') == ('', None)
  assert other.returncode == 0
  assert (tmp_path / 'out').read_text() == 'first'
  assert list(tmp_path.iterdir()) == [tmp_path / 'out']


def test_the_folder_of_a_process_is_removed_once_it_is_killed(tmp_path, other):
  other.kill()
  other.wait()
  assert len(list(tmp_path.iterdir())) == 1
  with files.beside(tmp_path / 'out') as work:
    assert list(tmp_path.iterdir()) == [work]


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(
  tmp_path, monkeypatch
):
  flock, removed = fcntl.flock, []

  def removing(lock, how):
    if not removed:
      removed.append(pathlib.Path(lock.name).parent)
      shutil.rmtree(removed[0])
    flock(lock, how)

  monkeypatch.setattr(fcntl, 'flock', removing)
  with files.beside(tmp_path / 'out') as work:
    assert work.is_dir()
    assert [work] != removed


@pytest.mark.parametrize('has_fallocate', [True, False])
def test_zeros_are_appended_and_have_room(tmp_path, monkeypatch, has_fallocate):
  if not has_fallocate:
    monkeypatch.delattr(os, 'posix_fallocate')
  size = 9 * 2**20 + 5
  with (tmp_path / 'a').open('wb') as file:
    file.write(b'head')
    files.allocate(file, size)
  assert (tmp_path / 'a').read_bytes() == b'head' + bytes(size)
  assert os.stat(tmp_path / 'a').st_blocks * 512 >= size


@pytest.mark.parametrize('has_fallocate', [True, False])
def test_a_full_disk_is_an_error_before_a_file_is_mapped(
  tmp_path, monkeypatch, has_fallocate
):
  if not has_fallocate:
    monkeypatch.delattr(os, 'posix_fallocate')
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
  try:
    with (
      pytest.raises(InputError, match=r'out: cannot be written: .*make room'),
      files.beside(tmp_path / 'out') as work,
      (work / 'a').open('wb') as file,
    ):
      files.allocate(file, 2**21)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not list(tmp_path.iterdir())
