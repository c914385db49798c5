"""What the README and docs/serving.md ask servers, as it stands there."""

import json
import re
import shutil
import subprocess
import textwrap

import pytest

import dlrm_jax
from tests.commands import run
from tests.serving import served
from tests.test_readme import ROOT, blocks

pytestmark = pytest.mark.slow


def trained(folder, config, batch_size):
  run(
    [
      *('train.py', f'--config={config}', f'--workdir={folder / "run"}'),
      f'--config.data.dir={folder / "set"}',
      '--config.train.steps=2',
      f'--config.train.batch_size={batch_size}',
    ]
  )
  return folder / 'run'


@pytest.fixture(scope='module')
def of_pairs(tmp_path_factory):
  """The run of docs/ranking.md, of a small log."""
  folder = tmp_path_factory.mktemp('pairs')
  lines = [f'{n % 20}\t{n % 37}\t5\t{n}' for n in range(2000)]
  (folder / 'log').write_text('\n'.join([*lines, '']))
  dlrm_jax.prepare('implicit', folder / 'set', input=[folder / 'log'])
  return trained(folder, 'configs/ncf.py:mf', 72)


@pytest.fixture(scope='module')
def of_tags(tmp_path_factory):
  """A run of a log with the columns of docs/serving.md."""
  folder = tmp_path_factory.mktemp('tags')
  (code,) = (x for x in blocks('docs/serving.md') if 'config.data.raw' in x)
  (folder / 'my_log.py').write_text(
    'from dlrm_jax.configs import default\n'
    'def get_config():\n'
    '  config = default.get_config()\n'
    f'{textwrap.indent(code, "  ")}'
    '  return config\n'
  )
  lines = [f'{n % 2},{n % 19},b{n % 13},new|tag{n % 5}' for n in range(4096)]
  (folder / 'log.csv').write_text(
    '\n'.join(['click,user,item,tags', *lines, ''])
  )
  dlrm_jax.prepare(
    'raw',
    folder / 'set',
    config=folder / 'my_log.py',
    input=[folder / 'log.csv'],
  )
  return trained(folder, folder / 'my_log.py', 64)


def asked(page, server):
  """What the server answers to the call of curl on a page."""
  if shutil.which('curl') is None:
    pytest.skip('no curl')
  text = (ROOT / page).read_text()
  (command,) = re.findall(r"^curl [^']+'.*?'$", text, re.M | re.S)
  command = command.replace('127.0.0.1:8000', server.http)
  done = subprocess.run(
    ['bash', '-c', command], capture_output=True, text=True, check=True
  )
  answer = json.loads(done.stdout)
  assert 'error' not in answer, answer
  return answer


def test_the_readme_asks_for_what_it_serves(of_pairs):
  with served.serving({'next': of_pairs}) as server:
    answer = asked('README.md', server)
  assert answer['model_name'] == 'next'
  assert answer['outputs'][0]['shape'] == [3, 1]


def test_the_page_about_serving_asks_for_what_it_serves(of_tags):
  (code,) = (x for x in blocks('docs/serving.md') if 'client.predict' in x)
  with served.serving({'ctr': of_tags}) as server:
    answer = asked('docs/serving.md', server)
    code = code.replace('  client.predict', '  scores = client.predict')
    known = {}
    exec(code.replace('127.0.0.1:8001', server.grpc), known)
  assert answer['outputs'][0]['shape'] == [2, 1]
  assert known['scores'].tolist() == pytest.approx(answer['outputs'][0]['data'])
