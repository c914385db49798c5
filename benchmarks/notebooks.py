"""Runs the notebooks from top to bottom, and stores their outputs in them.

  python -m benchmarks.notebooks --data=ml-latest-small.zip --data=train.txt

Each notebook runs in an empty folder and a new environment, into which its own
first cell installs the package: the repository is not around. The environment
has the libraries of this one; --python=PYTHON takes those of another one, such
as one with what Colab has (`tests/notebooks/colab.txt`). Needs nbclient, here,
and ipykernel, there.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
_SLOWEST = 1800  # seconds of a cell


def copy_source(folder: pathlib.Path) -> pathlib.Path:
  """Copies what the package is built of; a build leaves files where it is."""
  for name in ('dlrm_jax', 'configs'):
    built = shutil.ignore_patterns('*.so')
    shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=built)
  for name in (
    *('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE'),
    *('setup.py', 'MANIFEST.in'),
  ):
    shutil.copy(ROOT / name, folder)
  return folder


def build_wheel(
  folder: pathlib.Path, source: pathlib.Path | None = None
) -> pathlib.Path:
  """Builds the wheel.

  Args:
    folder: a folder for it.
    source: a copy of what it is built of; None: one of this checkout.
  """
  source = source or copy_source(folder / 'source')
  subprocess.run(
    [
      *(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps'),
      *('--no-build-isolation', f'--wheel-dir={folder}', str(source)),
    ],
    check=True,
  )
  (wheel,) = folder.glob('*.whl')
  return wheel


def _libraries(python: str) -> pathlib.Path:
  """The folder of the libraries of an interpreter."""
  program = 'import sysconfig; print(sysconfig.get_path("purelib"))'
  told = subprocess.run(
    [python, '-c', program], check=True, capture_output=True, text=True
  )
  return pathlib.Path(told.stdout.strip())


def bare_environment(
  python: str, wheel: pathlib.Path, folder: pathlib.Path
) -> dict[str, str]:
  """A new environment that has the libraries of another one, but not dlrm_jax.

  Args:
    python: interpreter of the other environment.
    wheel: the wheel of dlrm_jax, which pip finds where it is asked for.
    folder: an empty folder for the environment.

  Returns:
    The variables of its processes.
  """
  libraries = folder / 'libraries'
  libraries.mkdir()
  for entry in _libraries(python).iterdir():
    if 'dlrm_jax' not in entry.name:
      (libraries / entry.name).symlink_to(entry)
  subprocess.run([python, '-m', 'venv', str(folder / 'new')], check=True)
  scripts = folder / 'new' / 'bin'
  return {
    **os.environ,
    'PATH': f'{scripts}{os.pathsep}{os.environ["PATH"]}',
    'PYTHONPATH': str(libraries),
    'PIP_FIND_LINKS': str(wheel.parent),
    'PIP_NO_INDEX': '1',
    'PIP_DISABLE_PIP_VERSION_CHECK': '1',
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '',
  }


def run_notebook(
  path: pathlib.Path, folder: pathlib.Path, variables: Mapping[str, str]
) -> NotebookNode:
  """Runs all cells of a notebook; returns it with its outputs.

  Args:
    path: the notebook.
    folder: the folder that it runs in.
    variables: of the environment, as `bare_environment` makes them.

  Raises:
    subprocess.CalledProcessError: a cell failed.
  """
  place = shutil.copy(path, folder)
  with tempfile.TemporaryDirectory() as jupyter:
    kernel = pathlib.Path(jupyter) / 'kernels' / 'bare'
    kernel.mkdir(parents=True)
    python = shutil.which('python', path=variables['PATH'])
    spec = {
      'argv': [
        *(python, '-m', 'ipykernel_launcher', '-f', '{connection_file}'),
      ],
      'display_name': 'bare',
      'language': 'python',
      'env': dict(variables),
    }
    (kernel / 'kernel.json').write_text(json.dumps(spec))
    subprocess.run(
      [
        *(sys.executable, '-c', 'from nbclient.cli import main; main()'),
        *('--inplace', '--kernel_name=bare', f'--timeout={_SLOWEST}', place),
      ],
      env=os.environ | {'JUPYTER_PATH': jupyter},
      check=True,
    )
  notebook: Any = nbformat.read(place, as_version=4)
  written: Any = nbformat.read(path, as_version=4)
  notebook.metadata = written.metadata  # without the name of the kernel
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)  # at which time
  return notebook


def text_of(notebook: NotebookNode) -> str:
  """All text that the cells of a notebook printed."""
  printed = []
  for cell in notebook.cells:
    for output in cell.get('outputs', ()):
      printed.append(output.get('text', ''))
      printed.append(output.get('data', {}).get('text/plain', ''))
  return '\n'.join(printed)


def _settled(notebook: NotebookNode) -> None:
  """Joins what a cell printed, with the last state of each progress bar."""
  for cell in notebook.cells:
    streams: dict[str, NotebookNode] = {}
    kept = []
    for output in cell.get('outputs', ()):
      if output.output_type != 'stream':
        kept.append(output)
      elif output.name in streams:
        streams[output.name].text += output.text
      else:
        streams[output.name] = output
        kept.append(output)
    for output in streams.values():
      states = [line.split('\r') for line in output.text.split('\n')]
      lines = [
        next((x for x in reversed(state) if x.strip()), '') for state in states
      ]
      output.text = '\n'.join(lines)
    if 'outputs' in cell:
      cell.outputs = kept


def main(argv: Sequence[str]) -> None:
  """Runs the notebooks and stores them."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--python', default=sys.executable)
  parser.add_argument('--data', action='append', default=[])
  parser.add_argument('--size', choices=['full', 'tenth', 'smoke'])
  parser.add_argument('--dry', action='store_true', help='store nothing')
  options = parser.parse_args(argv)
  for path in NOTEBOOKS:
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary)
      wheel = build_wheel(folder)
      variables = bare_environment(options.python, wheel, folder)
      if options.size:
        variables['DLRM_JAX_NOTEBOOK_SIZE'] = options.size
      place = folder / 'content'
      place.mkdir()
      for data in options.data:
        shutil.copy(data, place)
      start = time.monotonic()
      notebook = run_notebook(path, place, variables)
      print(f'{path.name}: {time.monotonic() - start:.0f} s')
    if not options.dry:
      _settled(notebook)
      nbformat.write(notebook, path)


if __name__ == '__main__':
  main(sys.argv[1:])
