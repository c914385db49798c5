"""The command: what it says, how it ends, signals under load."""

import concurrent.futures
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib

import jax
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from tritonclient.utils import InferenceServerException

from dlrm_jax.serve.__main__ import main
from dlrm_jax.serve.flags import NEEDED
from dlrm_jax.serving.program import Program
from tests import commands, scored
from tests.serving import served

MODULE = ('-m', 'dlrm_jax.serve', '--http=0', '--grpc=0', '--max_batch=8')


def started(command):
  """The ports of a command, once it says that it is ready."""
  commands.wait_until(lambda: 'ready' in command.stdout.read_text(), command)
  text = command.stdout.read_text()
  return [int(port) for port in re.findall(r'://127.0.0.1:(\d+)', text)[:2]]


def events(text):
  """The events of a log."""
  return [json.loads(line) for line in text.splitlines()]


def test_what_it_says_and_how_it_ends(export, plain):
  models = f'--model=ctr={export}', f'--model=run={plain.folder}'
  with commands.Command([*MODULE, *models, '--max_delay_ms=2']) as command:
    http, grpc = started(command)
    with over_grpc.InferenceServerClient(f'127.0.0.1:{grpc}') as client:
      assert client.is_server_ready()
    command.send(signal.SIGTERM)
    status, stdout, stderr = command.end()
  assert status == 0, stderr
  lines = stdout.splitlines()
  assert lines[0] == (
    f'HTTP at http://127.0.0.1:{http}, gRPC at grpc://127.0.0.1:{grpc}'
  )
  assert lines[1].startswith('batches of at most 8 rows, joined within 2 ms; ')
  for line, name, folder in (
    (lines[2], 'ctr', export),
    (lines[3], 'run', plain.folder),
  ):
    assert line.startswith(f'{name} 1: {folder}, dlrm, step {scored.STEP};')
    assert 'compiled for 1 8 rows; ' in line
  assert lines[4:] == ['ready']
  found = [(x['event'], x.get('rows')) for x in events(stderr)]
  of_model = [('compiled', 1), ('compiled', 8), ('serving', None)]
  ending = [('ending', None), ('ended', None)]
  assert found == [*of_model, *of_model, *ending]


def test_it_ends_while_it_still_compiles(export):
  """A thread of XLA is at work then, which cannot be stopped."""
  large = [*MODULE[:-1], '--max_batch=16384', f'--model=ctr={export}']
  with commands.Command(large) as command:
    commands.wait_until(
      lambda: '"rows": 1}' in command.stderr.read_text(), command
    )
    command.send(signal.SIGTERM)
    status, stdout, stderr = command.end()
  assert status == 0, stderr
  assert 'ready' not in stdout
  assert 'ended' in [x['event'] for x in events(stderr)]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_it_answers_what_it_has_taken(export, plain, number):
  """Under load: every request has its own answer, or is refused."""
  inputs = scored.blocks_of(plain.data, 'test')
  want = plain.probabilities(inputs)
  refused, answered = [], [0] * 8
  going = threading.Event()

  def work(worker):
    with over_grpc.InferenceServerClient(address) as client:
      while True:
        start = (11 * worker + answered[worker]) % 90
        stop = start + 1 + answered[worker] % 8
        part = inputs._replace(
          dense=inputs.dense[start:stop], ids=inputs.ids[start:stop]
        )
        try:
          found = client.infer(
            'ctr', served.network_tensors(over_grpc, part)
          ).as_numpy('probability')
        except InferenceServerException as error:
          refused.append(error)
          return
        np.testing.assert_allclose(found, want[start:stop], rtol=0, atol=1e-6)
        answered[worker] += 1
        if min(answered) > 20:
          going.set()

  with (
    commands.Command([*MODULE, f'--model=ctr={export}']) as command,
    concurrent.futures.ThreadPoolExecutor(8) as pool,
  ):
    address = f'127.0.0.1:{started(command)[1]}'
    asking = [pool.submit(work, worker) for worker in range(8)]
    commands.wait_until(
      lambda: going.is_set() or any(x.done() for x in asking), command
    )
    command.send(number)
    for future in asking:
      future.result(60)  # raises where an answer was another's
    status, _, stderr = command.end()
  assert status == 0, stderr
  assert len(refused) == 8
  for error in refused:
    assert 'UNAVAILABLE' in error.status(), error


def test_hang_up_loads_what_has_changed(export, weighted, tmp_path):
  folder = tmp_path / 'models'
  shutil.copytree(export, folder / '1')
  with commands.Command([*MODULE, f'--model=ctr={folder}']) as command:
    address = f'127.0.0.1:{started(command)[1]}'
    shutil.copytree(export, tmp_path / 'new')
    (tmp_path / 'new').rename(folder / '2')
    command.send(signal.SIGHUP)
    with over_grpc.InferenceServerClient(address) as client:
      commands.wait_until(lambda: client.is_model_ready('ctr', '2'), command)
      (folder / '3').mkdir()
      command.send(signal.SIGHUP)
      commands.wait_until(
        lambda: 'load failed' in command.stderr.read_text(), command
      )
      assert client.is_model_ready('ctr', '2')
    command.send(signal.SIGTERM)
    status, _, stderr = command.end()
  assert status == 0
  (failed,) = [x for x in events(stderr) if x['event'] == 'load failed']
  assert f'{folder}/3: neither a workdir' in failed['reason']


def test_a_model_that_does_not_load_leaves_the_others(export, tmp_path):
  """The server stays up, is not ready, and says why; until it loads."""
  folders = {'bad': tmp_path / 'model', 'ctr': export}
  models = [f'--model={name}={folder}' for name, folder in folders.items()]
  with commands.Command([*MODULE, *models]) as command:
    address = f'127.0.0.1:{started(command)[1]}'
    with over_grpc.InferenceServerClient(address) as client:
      assert client.is_server_live()
      assert not client.is_server_ready()
      assert client.is_model_ready('ctr')
      index = client.get_model_repository_index(as_json=True)['models']
      assert [x['state'] for x in index] == ['UNAVAILABLE', 'READY']
      assert index[0]['reason'].startswith(f'{tmp_path}/model: cannot be read')
      shutil.copytree(export, tmp_path / 'new')
      (tmp_path / 'new').rename(folders['bad'])
      command.send(signal.SIGHUP)
      commands.wait_until(client.is_server_ready, command)
    command.send(signal.SIGTERM)
    status, stdout, stderr = command.end()
  assert status == 0, stderr
  lines = stdout.splitlines()
  assert lines[2].startswith(f'bad is not served: {tmp_path}/model: cannot')
  assert lines[3].startswith('ctr 1: ')
  assert lines[4:] == ['not ready, for want of bad']
  assert 'Traceback' not in stderr


def test_an_address_that_others_reach(export):
  """Without a token, all may unload; a line says so."""
  with commands.Command(
    [*MODULE, f'--model=ctr={export}', '--host=0.0.0.0']
  ) as command:
    commands.wait_until(lambda: 'ready' in command.stdout.read_text(), command)
    command.send(signal.SIGTERM)
    status, stdout, stderr = command.end()
  assert status == 0, stderr
  (line,) = [x for x in stdout.splitlines() if '--token_file' in x]
  assert line.startswith('whoever reaches 0.0.0.0 may load and unload models')


def mistake(capsys, *arguments):
  """The line that a wrong command ends with."""
  assert main(arguments) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('error: ')
  return error


def test_a_port_in_use(export, capsys):
  with socket.socket() as held:
    held.bind(('127.0.0.1', 0))
    held.listen()
    port = held.getsockname()[1]
    for name in ('http', 'grpc'):
      ports = {'http': 0, 'grpc': 0} | {name: port}
      flags = [f'--{key}={value}' for key, value in ports.items()]
      line = mistake(capsys, f'--model=ctr={export}', *flags)
      assert f'--{name}={port} at 127.0.0.1: ' in line
      assert 'choose another' in line


def test_a_model_that_is_none(capsys, tmp_path):
  ports = ('--http=0', '--grpc=0')
  line = mistake(capsys, f'--model=ctr={tmp_path}', *ports)
  assert f'{tmp_path}: neither a workdir' in line


def test_a_model_that_does_not_compile(export, capsys, monkeypatch):
  def compile(self, size):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no memory\nand so')

  monkeypatch.setattr(Program, 'compile', compile)
  ports = ('--http=0', '--grpc=0')
  line = mistake(capsys, f'--model=ctr={export}', *ports)
  assert 'JaxRuntimeError: RESOURCE_EXHAUSTED: no memory' in line


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([], '--model'),
    (['--model=x'], '--model=x: expected NAME=DIR'),
    (['--model=a/b=x'], '--model=a/b=x: expected NAME=DIR'),
    (['--model=a=x', '--model=a=y'], 'there are two models a'),
    (['--model=a=x', '--http=70000'], '--http=70000: expected a port'),
    (['--model=a=x', '--http=80', '--grpc=80'], 'are both 80'),
    (['--model=a=x', '--max_batch=0'], '--max_batch=0: expected 1'),
    (['--model=a=x', '--max_delay_ms=-1'], '--max_delay_ms=-1: expected'),
    (['--model=a=x', '--max_delay_ms=nan'], '--max_delay_ms=nan: expected'),
    (['--model=a=x', '--max_queue_rows=9'], 'at least --max_batch=1024'),
    (['--model=a=x', '--max_body=9'], '--max_body'),
    (['--model=a=x', '--max_body=9GB'], 'less than 2GB'),
    (['--model=a=x', '--tls_cert=c'], 'both of --tls_cert and --tls_key'),
    (['--model=a=x', '--tls_cert=c', '--tls_key=k'], 'a certificate in PEM'),
    (['--model=a=x', '--token_file=none'], '--token_file=none: cannot be'),
    (['--model=a=x', '--token_file=/dev/null'], 'a token of printable ASCII'),
    (['--model=a=x', '--host=nowhere.invalid'], 'at nowhere.invalid: '),
  ],
)
def test_wrong_flags(capsys, flags, words):
  assert words in mistake(capsys, *flags)


def test_packages_of_the_extra_are_looked_for():
  text = (commands.ROOT / 'pyproject.toml').read_text()
  extra = tomllib.loads(text)['project']['optional-dependencies']['serve']
  names = {re.match(r'[\w-]+', package)[0] for package in extra}
  assert names - {'uvloop'} <= set(NEEDED)


def test_packages_that_are_missing(capsys, monkeypatch):
  monkeypatch.setattr('dlrm_jax.serve.flags.NEEDED', ('no_such_package',))
  line = mistake(capsys, '--model=a=x')
  assert "needs no_such_package: pip install 'dlrm_jax[serve]'" in line


def test_a_server_imports_nothing_that_trains(export):
  code = f"""
import asyncio, sys
from pathlib import Path
from dlrm_jax.serving.waiting import Limits
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.security import Security
from dlrm_jax.serving.server import Settings, running

async def serve():
  settings = Settings(
    dict(ctr=Path({str(export)!r})), '127.0.0.1', 0, 0, Limits(8, 0.0, 64),
    1 << 20, Security(None, ''),
  )
  async with running(settings, Log()) as server:
    await server.service.load('ctr')

asyncio.run(serve())
print(*sys.modules)
"""
  command = [sys.executable, '-c', code]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  names = {name.split('.')[0] for name in done.stdout.split()}
  assert 'grpc' in names
  assert not names & {
    'array_record', 'grain', 'matplotlib', 'orbax', 'tensorboardX',
    'tensorflow_datasets', 'torch',
  }  # fmt: skip


def test_the_log_has_json_alone(export):
  """Also where clients speak no protocol, and where libraries warn."""
  code = f"""
import asyncio, sys
from dlrm_jax.serve.__main__ import main
from dlrm_jax.serve.flags import NEEDED

def loop():
  made = asyncio.new_event_loop()
  made.call_later(0.1, made.call_exception_handler, {{'message': 'a defect'}})
  return made

import dlrm_jax.serve.__main__ as command
command._loop = loop
main(['--model=ctr={export}', '--http=0', '--grpc=0', '--max_batch=1'])
"""
  with commands.Command(['-c', code]) as command:
    for port in started(command):
      for text in (
        b'no HTTP\r\n\r\n',
        b'\x16\x03\x01\x00\x05hello',
        b'\0' * 99,
      ):
        with socket.create_connection(('127.0.0.1', port), 60) as asking:
          asking.sendall(text)
          asking.settimeout(1)
          with contextlib.suppress(OSError):
            asking.recv(100)
    command.send(signal.SIGTERM)
    status, _, stderr = command.end()
  assert status == 0
  found = [x for x in events(stderr) if x['event'] == 'warning']
  assert [(x['library'], x['message']) for x in found] == [
    ('asyncio', 'a defect')
  ]
