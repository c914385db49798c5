"""What is installed: commands and configs, away from the repository."""

import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from benchmarks.notebooks import build_wheel, copy_source
from dlrm_jax.config import config_file
from dlrm_jax.errors import InputError
from tests.archives import unpack

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder with the content of the wheel alone."""
  folder = tmp_path_factory.mktemp('wheel')
  with zipfile.ZipFile(build_wheel(folder)) as archive:
    archive.extractall(folder / 'site')
  return folder / 'site'


def run(command, site, folder):
  module, function = PROJECT['scripts'][command[0]].split(':')
  program = f'from {module} import {function}; raise SystemExit({function}())'
  return subprocess.run(
    [sys.executable, '-c', program, *command[1:]],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(site), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize('name', PROJECT['scripts'])
def test_a_command_is_a_function_of_the_package(name):
  module, function = PROJECT['scripts'][name].split(':')
  assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_an_installed_command_trains_with_a_config_of_the_package(
  installed, tmp_path
):
  assert sorted(p.name for p in (installed / 'dlrm_jax/configs').glob('*')) == (
    sorted(p.name for p in (ROOT / 'configs').glob('*.py'))
  )
  done = run(
    [
      *('dlrm-train', '--config=synthetic', '--workdir=run'),
      *('--config.train.steps=2', '--config.train.batch_size=64'),
      '--config.data.synthetic.train=1_000',
      '--config.data.synthetic.validation=1_000',
      '--config.data.synthetic.test=1_000',
    ],
    installed,
    tmp_path,
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'run' / 'report.html').exists()
  assert (tmp_path / 'run' / 'results.json').exists()
  done = run(['dlrm-evaluate', '--workdir=run'], installed, tmp_path)
  assert done.returncode == 0, done.stderr
  head = ','.join(
    [f'I{i}' for i in range(1, 5)] + [f'C{i}' for i in range(1, 9)]
  )
  (tmp_path / 'rows.csv').write_text(f'{head}\n1,0,0,2,7,8,9,1|2,3,4,5,0\n')
  words = '--workdir=run', '--data=rows.csv', '--output=scores.csv'
  done = run(['dlrm-predict', *words], installed, tmp_path)
  assert done.returncode == 0, done.stderr
  title, value = (tmp_path / 'scores.csv').read_text().split()
  assert title == 'probability'
  assert 0 < float(value) < 1


@pytest.mark.slow
def test_the_source_archive_has_what_the_wheel_is_built_of(tmp_path):
  """A build from it gives the files of a build from the repository."""
  source = copy_source(tmp_path / 'source')
  build = [sys.executable, '-m', 'build', '--no-isolation', '--sdist']
  subprocess.run([*build, str(source)], check=True, capture_output=True)
  (archive,) = (source / 'dist').glob('*.tar.gz')
  unpack(archive, tmp_path / 'unpacked')
  (again,) = (tmp_path / 'unpacked').iterdir()
  wheels = build_wheel(tmp_path / 'a'), build_wheel(tmp_path / 'b', again)
  contents = []
  for wheel in wheels:
    assert wheel.stat().st_size < 2e6
    with zipfile.ZipFile(wheel) as packed:
      contents.append(
        {
          name: packed.read(name)
          for name in packed.namelist()
          if not name.endswith('RECORD')
        }
      )
  assert contents[0] == contents[1]


@pytest.mark.slow
@pytest.mark.parametrize('file', ['Dockerfile', 'Dockerfile.gpu'])
def test_an_image_gets_all_that_its_install_needs(file, tmp_path):
  text = (ROOT / file).read_text()
  source = tmp_path / 'source'
  source.mkdir()
  for names, folder in re.findall(r'^COPY (.*) /source(/\S*)$', text, re.M):
    for name in names.split():
      if (ROOT / name).is_dir():
        shutil.copytree(
          ROOT / name,
          source / folder[1:],
          symlinks=True,
          ignore=shutil.ignore_patterns('*.so'),
        )
      else:
        shutil.copy(ROOT / name, source)
  wheel = build_wheel(tmp_path / 'built', source)
  with zipfile.ZipFile(wheel) as packed:
    assert 'dlrm_jax/configs/synthetic.py' in packed.namelist()
    if shutil.which('cc'):
      assert 'dlrm_jax/native/_kernels.so' in packed.namelist()
  (extra,) = re.findall(
    r'^RUN pip install .*"dlrm_jax(?:\[(\w+)\])? @ file:', text, re.M
  )
  assert not extra or extra in PROJECT['optional-dependencies']
  assert set(re.findall(r'dlrm-\w+', text)) <= set(PROJECT['scripts'])


def test_a_config_of_a_user_begins_with_the_default_of_the_package(
  installed, tmp_path
):
  text = 'from dlrm_jax.configs import default\nget_config = default.get_config'
  (tmp_path / 'mine.py').write_text(text)
  (tmp_path / 'old.py').write_text(text.replace('dlrm_jax.', ''))
  flags = ('--config.data.kind=synthetic', '--devices=1')
  done = run(['dlrm-plan', '--config=mine.py', *flags], installed, tmp_path)
  assert done.returncode == 0, done.stderr
  done = run(['dlrm-plan', '--config=old.py', *flags], installed, tmp_path)
  assert done.returncode == 1
  assert 'expected: from dlrm_jax.configs import default' in done.stderr


@pytest.mark.parametrize(
  'named',
  ['movielens', 'movielens.py', 'configs/movielens.py', 'movielens:variant'],
)
def test_a_config_of_the_package_needs_only_its_name(
  named, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  path, *variant = config_file.find(named).split(':')
  assert pathlib.Path(path).samefile(ROOT / 'configs' / 'movielens.py')
  assert variant == named.split(':')[1:]


def test_the_file_of_a_user_comes_before_one_of_the_package(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('movielens.py').write_text('')
  assert config_file.find('movielens.py') == 'movielens.py'


@pytest.mark.parametrize('named', ['no', 'other/movielens.py', '../movielens'])
def test_what_is_no_config_is_refused_with_those_there_are(named):
  with pytest.raises(InputError, match=r'no such file.*criteo_kaggle, '):
    config_file.find(named)


@pytest.mark.slow
def test_the_example_in_the_readme_runs_as_it_is(tmp_path):
  examples = re.findall(
    r'^```python\n(.*?)^```', (ROOT / 'README.md').read_text(), re.M | re.S
  )
  (example,) = (code for code in examples if 'train_step' in code)
  done = subprocess.run(
    [sys.executable, '-c', example.replace('range(100)', 'range(2)')],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 0 < float(done.stdout) < 2


def test_the_configs_that_the_readme_names_are_there():
  named = re.findall(r'--config=([\w./]+)', (ROOT / 'README.md').read_text())
  assert len(named) > 5
  for name in set(named) - {'configs/NAME.py'}:
    assert config_file.find(name)
