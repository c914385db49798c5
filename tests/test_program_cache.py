"""The folder of compiled programs: where it is, and when there is none."""

import os
import subprocess
import sys

import pytest

from dlrm_jax import program_cache

PROGRAM = """
import sys
from dlrm_jax.program_cache import keep_programs
keep_programs()
import jax
print(jax.jit(lambda x: x + 1)(1))
jax.jit(lambda x: x * x)(1)
if sys.argv[1:]:
  import os
  os._exit(9)
"""


def run(home, *arguments, **variables):
  """Compiles a program in a process that keeps programs."""
  environment = {
    k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'
  }
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, *arguments],
    env=environment | {'XDG_CACHE_HOME': str(home)} | variables,
    capture_output=True,
    text=True,
  )
  assert done.stdout == '2\n'
  assert not done.stderr
  return done.returncode


def entries(home):
  return {p: p.stat().st_mtime_ns for p in home.glob('dlrm_jax/*/jit*')}


def marks(home):
  return list(home.glob('dlrm_jax/*/in_use_*'))


def test_programs_are_kept_for_the_next_process(tmp_path):
  run(tmp_path)
  kept = entries(tmp_path)
  assert len(kept) >= 1
  assert not marks(tmp_path)
  run(tmp_path)
  assert entries(tmp_path) == kept
  (folder,) = (tmp_path / 'dlrm_jax').iterdir()
  assert folder.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_may_have_cut_is_written_again(tmp_path):
  assert run(tmp_path, 'be killed') == 9
  assert marks(tmp_path)
  before, *cut = entries(tmp_path)
  os.utime(before, (10**9, 10**9))
  for path in cut:
    path.write_bytes(b'some')
  assert cut
  run(tmp_path)
  assert not marks(tmp_path)
  assert all(path.stat().st_size > 100 for path in cut)
  assert before.stat().st_mtime == 10**9


def test_the_mark_of_a_living_process_stays(tmp_path):
  program_cache._hold_mark(tmp_path)
  (tmp_path / 'jit_f').write_bytes(b'some')
  program_cache._clean(tmp_path)
  assert len(list(tmp_path.iterdir())) == 2


def test_the_oldest_entries_of_too_many_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(program_cache, 'MOST_BYTES', 100)
  for i in range(4):
    (tmp_path / f'jit_{i}').write_bytes(bytes(30))
    os.utime(tmp_path / f'jit_{i}', (i, i))
  program_cache._clean(tmp_path)
  assert [p.name for p in sorted(tmp_path.iterdir())] == ['jit_3']
  program_cache._clean(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['jit_3']


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
