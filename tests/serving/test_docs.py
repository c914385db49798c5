"""What the README and docs/serving.md ask servers, as it stands there."""

import json
import re
import shutil
import subprocess

import jax
import pytest

import dlrm_jax
from dlrm_jax.config import config_file
from dlrm_jax.configs import default
from tests.serving import served
from tests.test_readme import ROOT, blocks

pytestmark = pytest.mark.slow


def trained(config, folder):
  config.data.dir = str(folder / 'set')
  config.train.steps, config.train.epochs = 2, 0
  with jax.numpy_dtype_promotion('standard'):  # Optax's Adam needs it
    dlrm_jax.train(config, folder / 'run')
  return folder / 'run'


@pytest.fixture(scope='module')
def of_pairs(tmp_path_factory):
  """The run of docs/ranking.md, of a small log."""
  folder = tmp_path_factory.mktemp('pairs')
  lines = [f'{n % 20}\t{n % 37}\t5\t{n}' for n in range(2000)]
  (folder / 'log').write_text('\n'.join([*lines, '']))
  dlrm_jax.prepare('implicit', folder / 'set', input=[folder / 'log'])
  config = config_file.load('ncf:mf')
  config.train.batch_size = 90
  return trained(config, folder)


@pytest.fixture(scope='module')
def of_tags(tmp_path_factory):
  """A run of a log with the columns of docs/serving.md."""
  folder = tmp_path_factory.mktemp('tags')
  config = default.get_config()
  (code,) = (x for x in blocks('docs/serving.md') if 'config.data.raw' in x)
  exec(code, {'config': config})
  lines = [
    f'{n % 2},{n % 19},b{n % 13},new|tag{n % 5}' for n in range(4096)
  ]  # fmt: skip
  (folder / 'log.csv').write_text(
    '\n'.join(['click,user,item,tags', *lines, ''])
  )
  dlrm_jax.prepare(
    'raw', folder / 'set', config=config, input=[folder / 'log.csv']
  )
  config.train.batch_size = 64
  return trained(config, folder)


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
