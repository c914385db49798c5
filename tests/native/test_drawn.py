"""The kernels under sanitizers, with operands of many shapes, in threads."""

import pathlib
import shutil
import subprocess

import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPILER = shutil.which('cc')
FLAGS = [
  *('-g', '-O1', '-std=gnu11', '-Wall', '-Wextra', '-Werror', '-Wno-psabi'),
  *('-fno-math-errno', '-fno-sanitize-recover=all'),
]


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason='there is no C compiler')
@pytest.mark.parametrize(
  ('sanitizers', 'lanes'),
  [
    ('address,undefined', 16),  # where the processor has AVX-512
    ('address,undefined', 8),
    ('thread', 16),  # some kernels place memory where it cannot work
  ],
)
def test_drawn_calls(sanitizers, lanes, tmp_path):
  folder = ROOT / 'dlrm_jax' / 'native'
  sources = [*folder.glob('*.c'), ROOT / 'tests' / 'native' / 'drawn.c']
  program = tmp_path / 'drawn'
  includes = [f'-I{x}' for x in (jax.ffi.include_dir(), folder)]
  command = [COMPILER, *FLAGS, f'-DDLRM_JAX_ONE_TARGET={lanes}', *includes]
  command += [f'-fsanitize={sanitizers}']
  command += [*map(str, sources), '-o', str(program), '-lm', '-lpthread']
  subprocess.run(command, check=True)
  for seed in range(3):
    done = subprocess.run(
      [program, str(seed), '500'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == '500 calls of each kernel\n'
