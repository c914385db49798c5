"""The folder of compiled programs: where it is, and when there is none."""

import os
import subprocess
import sys
import zlib

import pytest

from dlrm_jax import program_cache

PROGRAM = """
from dlrm_jax.program_cache import keep_programs
keep_programs()
import jax
print(jax.jit(lambda x: x + 1)(1))
jax.jit(lambda x: x * x)(1)
"""


def run(home, **variables):
  """Compiles a program in a process that keeps programs."""
  environment = {
    k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'
  }
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    env=environment | {'XDG_CACHE_HOME': str(home)} | variables,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '2\n', '')


def entries(home):
  return {p: p.stat().st_mtime_ns for p in home.glob('dlrm_jax/*/jit*')}


def test_programs_are_kept_for_the_next_process(tmp_path):
  run(tmp_path)
  kept = entries(tmp_path)
  assert len(kept) >= 2
  (folder,) = (tmp_path / 'dlrm_jax').iterdir()
  assert folder.stat().st_mode & 0o777 == 0o700
  cut, *others = kept
  cut.write_bytes(cut.read_bytes()[:-9])  # by a kill, or a full disk
  run(tmp_path)
  now = entries(tmp_path)
  assert [now[p] for p in others] == [kept[p] for p in others]
  assert program_cache._is_whole(cut)
  assert now[cut] != kept[cut]


def entry(folder, name, packed, made=0):
  path = folder / f'{name}-cache'
  path.write_bytes(packed)
  os.utime(path, (made, made))
  return path


@pytest.mark.parametrize('kind', ['zlib', 'zstandard'])
def test_entries_that_are_cut_are_removed(kind, tmp_path):
  packed = zlib.compress(os.urandom(1000))
  if kind == 'zstandard':  # JAX takes it where it is there
    packer = pytest.importorskip('zstandard').ZstdCompressor()
    packed = packer.compress(os.urandom(1000))
  whole, cut = entry(tmp_path, 'a', packed), entry(tmp_path, 'b', packed[:500])
  empty = entry(tmp_path, 'c', b'')
  program_cache._clean(tmp_path)
  assert whole.exists()
  assert not cut.exists()
  assert not empty.exists()


def test_entries_are_checked_once(tmp_path):
  program_cache._clean(tmp_path)
  old = entry(tmp_path, 'old', b'cut', made=1)
  new = entry(tmp_path, 'new', b'cut', made=2**32)
  program_cache._clean(tmp_path)
  assert old.exists()
  assert not new.exists()


def test_other_files_and_folders_stay(tmp_path, monkeypatch):
  monkeypatch.setattr(program_cache, 'MOST_BYTES', 1)
  (tmp_path / 'xla_gpu_per_fusion_autotune_cache_dir').mkdir()
  (tmp_path / 'a file').write_bytes(bytes(100))
  names = sorted(tmp_path.iterdir())
  program_cache._clean(tmp_path)
  assert sorted(tmp_path.iterdir()) == sorted([*names, tmp_path / 'checked'])


def test_the_first_entries_of_too_many_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(program_cache, 'MOST_BYTES', 400)
  folders = [tmp_path / 'one', tmp_path / 'other']
  for i in range(4):
    folder = folders[i % 2]
    folder.mkdir(exist_ok=True)
    entry(folder, str(i), zlib.compress(os.urandom(120)), made=i)
  for folder in folders:
    program_cache._clean(folder)
    assert [p.name for p in tmp_path.glob('*/*-cache')] == ['3-cache']


def test_folders_of_versions_that_are_not_used_go(tmp_path):
  for name in ('old', 'new', 'now'):
    (tmp_path / name).mkdir()
    program_cache._clean(tmp_path / name)
  os.utime(tmp_path / 'old' / 'checked', (1, 1))
  program_cache._clean(tmp_path / 'now')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['new', 'now']


def test_no_folder_can_be_made(tmp_path):
  (tmp_path / 'dlrm_jax').write_text('a file in its place')
  run(tmp_path)


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
  assert program_cache._private(tmp_path)
  for others in (0o770, 0o707):
    tmp_path.chmod(others)
    assert not program_cache._private(tmp_path)


@pytest.mark.parametrize(
  'variables',
  [
    {'JAX_ENABLE_COMPILATION_CACHE': '0'},
    {'JAX_COMPILATION_CACHE_DIR': 'elsewhere'},
  ],
)
def test_jax_has_the_last_word(variables, tmp_path):
  folder = {
    k: str(tmp_path / v) for k, v in variables.items() if v == 'elsewhere'
  }
  run(tmp_path, **(variables | folder))
  assert not (tmp_path / 'dlrm_jax').exists()
