"""Tests, goldens and one training on several Pythons and several JAX.

  python -m benchmarks.versions                  # writes docs/versions.md
  python -m benchmarks.versions --only=colab

Each row of the table is a new environment of a Python that is on the PATH: the
newest libraries that pip finds for it, the lower bounds of requirements.txt, or
what Colab has (tests/notebooks/colab.txt). Finished rows are kept in
.venv/versions, so that the same command goes on; --again forgets them.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.models import replaced

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'versions.md'
FOLDER = ROOT / '.venv' / 'versions'
_PYTHONS = ('3.11', '3.12', '3.13')
_SHOWN = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'polars')
_FOR_TESTS = (
  *('pytest', 'pytest-xdist', 'hypothesis', 'scikit-learn', 'pandas'),
  *('ipykernel', 'nbclient', 'nbformat', 'build', 'setuptools>=77'),
)


class Environment(NamedTuple):
  """A Python and bounds of its libraries.

  Attributes:
    name: name of the row.
    python: the interpreter.
    pins: lines of a constraints file.
    extras: of the package, which are installed with it.
  """

  name: str
  python: str
  pins: tuple[str, ...] = ()
  extras: str = ''


def _lowest() -> tuple[str, ...]:
  """The lower bounds as pins."""
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  return tuple(x.replace('>=', '==') for x in lines if '>=' in x)


def _colab() -> tuple[str, ...]:
  """What Colab has, but what installs and builds."""
  lines = (ROOT / 'tests' / 'notebooks' / 'colab.txt').read_text().splitlines()
  return tuple(
    x for x in lines if x and not x.startswith(('#', 'pip==', 'setuptools=='))
  )


def environments() -> Iterator[Environment]:
  """The environments of the table, of Pythons that are here."""
  found = {
    version: path
    for version in _PYTHONS
    if (path := shutil.which(f'python{version}'))
    and subprocess.run([path, '-c', ''], capture_output=True).returncode == 0
  }
  for version, python in found.items():
    yield Environment(f'{version}, newest', python, extras='[onnx,serve]')
  if found:
    version, python = next(iter(found.items()))
    yield Environment(f'{version}, oldest', python, _lowest())
  if '3.13' in found:
    yield Environment('3.13, as on Colab', found['3.13'], _colab())


def _run(*command: str | pathlib.Path) -> str:
  """Output of a command in the root of the repository; it may fail."""
  done = subprocess.run(
    [str(word) for word in command],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  return done.stdout + done.stderr


def _summary(text: str) -> str:
  """The counts in the last line of pytest.

  >>> _summary('...' + chr(10) + '2 failed, 10 passed, 1 skipped in 3.2s')
  '2 failed, 10 passed, 1 skipped'
  """
  found = re.findall(r'^=*\s*(\d+ (?:failed|passed).*?) in [\d.]+s', text, re.M)
  return found[-1] if found else 'no result'


def measure(environment: Environment, folder: pathlib.Path) -> dict[str, Any]:
  """Makes an environment and runs everything in it.

  Args:
    environment: the environment.
    folder: an empty folder.
  """
  subprocess.run([environment.python, '-m', 'venv', folder], check=True)
  python = folder / 'bin' / 'python'
  pins = folder / 'pins.txt'
  pins.write_text('\n'.join(environment.pins))
  pip = (str(python), '-m', 'pip', 'install', '--quiet')
  wanted = (*('-r', 'requirements.txt', '-c', str(pins)), *_FOR_TESTS)
  subprocess.run([*pip, *wanted], cwd=ROOT, check=True)
  package = f'{ROOT}{environment.extras}'
  subprocess.run([*pip, '-c', str(pins), '-e', package], cwd=ROOT, check=True)
  listed = _run(python, '-m', 'pip', 'list', '--format=json')
  versions = {
    entry['name'].lower(): entry['version']
    for entry in json.loads(listed[listed.index('[') : listed.rindex(']') + 1])
  }
  tests = _run(python, '-m', 'pytest', '-q', '-n', 'auto', '-m', 'not slow')
  (folder / 'tests.txt').write_text(tests)
  goldens = _run(python, '-m', 'pytest', '-q', 'tests/test_goldens.py')
  (folder / 'goldens.txt').write_text(goldens)
  run = folder / 'run'
  told = _run(python, 'train.py', '--config=synthetic', f'--workdir={run}')
  (folder / 'run.txt').write_text(told)
  results = json.loads((run / 'results.json').read_text())
  notebooks = [sys.executable, '-m', 'benchmarks.notebooks', '--dry']
  told = _run(*notebooks, '--size=smoke', f'--python={python}')
  (folder / 'notebooks.txt').write_text(told)
  return {
    'name': environment.name,
    'python': _run(python, '--version').split()[-1],
    'versions': {name: versions[name] for name in _SHOWN},
    'tests': _summary(tests),
    'goldens': _summary(goldens),
    'auc': results['splits']['test']['auc'],
    'notebooks': len(re.findall(r'^\w+\.ipynb: \d+ s$', told, re.M)),
    'commit': _run('git', 'rev-parse', '--short', 'HEAD').strip(),
  }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
  """The lines of the table in Markdown."""
  head = ('environment', 'Python', *_SHOWN, 'fast tests', 'goldens', 'AUC')
  head += ('notebooks', 'commit')
  lines = [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
  for row in rows:
    cells = (
      *(row['name'], row['python'], *row['versions'].values()),
      *(row['tests'], row['goldens'], f'{row["auc"]:.6f}'),
      *(f'{row["notebooks"]} ran', row['commit']),
    )
    lines.append(f'| {" | ".join(cells)} |')
  if len(rows) > 1:
    lines += ['', f'Largest difference of the AUC: {_spread(rows):.1e}.']
  return lines


def _spread(rows: Sequence[dict[str, Any]]) -> float:
  """Largest difference of the AUC."""
  return max(r['auc'] for r in rows) - min(r['auc'] for r in rows)


def _good(row: dict[str, Any]) -> bool:
  """Whether all tests and notebooks of a row passed."""
  texts = row['tests'], row['goldens']
  whole = all(re.match(r'\d+ passed', text) for text in texts)
  return (
    whole
    and not any('error' in text for text in texts)
    and (row['notebooks'] == 2)
  )


def main(argv: Sequence[str]) -> int:
  """Measures what is not measured yet, and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--only', help='part of the name of an environment')
  parser.add_argument('--again', action='store_true')
  options = parser.parse_args(argv)
  if options.again:
    shutil.rmtree(FOLDER, ignore_errors=True)
  rows = []
  for environment in environments():
    folder = FOLDER / re.sub(r'\W+', '_', environment.name)
    done = folder / 'row.json'
    if not done.exists() and (options.only or '') in environment.name:
      shutil.rmtree(folder, ignore_errors=True)
      folder.mkdir(parents=True)
      done.write_text(json.dumps(measure(environment, folder)))
    if done.exists():
      rows.append(json.loads(done.read_text()))
      print(table(rows[-1:])[2], flush=True)
  if not rows:
    print(f'--only={options.only}: no such environment, and none was measured')
    return 1
  PAGE.write_text(replaced(PAGE.read_text(), '\n'.join(table(rows)), PAGE))
  return int(not all(map(_good, rows)) or _spread(rows) > 1e-4)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
