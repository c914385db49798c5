"""Servers in a thread of the tests."""

import asyncio
import contextlib
import io
import threading
from pathlib import Path

import numpy as np

from dlrm_jax.serving.log import Log
from dlrm_jax.serving.security import Security
from dlrm_jax.serving.server import Settings, running
from dlrm_jax.serving.tensors import BYTES
from dlrm_jax.serving.waiting import Limits

LIMITS = Limits(max_batch=64, max_delay=0.0, max_queue_rows=512)

SMALL = Limits(max_batch=8, max_delay=0.0, max_queue_rows=64)

OPEN = Security(None, '')


class Server:
  """A server that runs in a thread.

  Attributes:
    service: its service, for its own thread.
    http: its address, without a scheme.
    grpc: likewise.
    log: what it wrote.
  """

  def __init__(self, running, loop, log):
    self.service = running.service
    self.http = f'127.0.0.1:{running.http}'
    self.grpc = f'127.0.0.1:{running.grpc}'
    self.log = log
    self._loop = loop

  def do(self, coroutine):
    """Runs a coroutine in the thread of the server."""
    future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
    return future.result(60)

  def call(self, function, *arguments):
    """Calls a function in the thread of the server."""

    async def calling():
      return function(*arguments)

    return self.do(calling())


@contextlib.contextmanager
def serving(models, limits=LIMITS, max_body=1 << 20, security=OPEN):
  """A server of models, once all are loaded."""
  log = io.StringIO()
  folders = {name: Path(folder) for name, folder in models.items()}
  settings = Settings(folders, '127.0.0.1', 0, 0, limits, max_body, security)
  started, found, errors = threading.Event(), [], []

  async def serve():
    end = asyncio.Event()
    async with running(settings, Log(log)) as server:
      for name in folders:
        await server.service.repository.load(name)
      loop = asyncio.get_running_loop()
      found.extend([Server(server, loop, log), end])
      started.set()
      await end.wait()

  def run():
    try:
      asyncio.run(serve())
    except BaseException as error:
      errors.append(error)
    finally:
      started.set()

  thread = threading.Thread(target=run)
  thread.start()
  started.wait()
  if errors:
    thread.join()
    raise errors[0]
  server, end = found
  try:
    yield server
  finally:
    server.call(end.set)
    thread.join(60)
    assert not thread.is_alive()
    assert not errors


def network_tensors(client, inputs, names=('dense', 'ids', 'id_weights')):
  """Inputs as the network takes them, for one of the official clients.

  Args:
    client: the module of the client.
    inputs: `Inputs`.
    names: of the tensors.
  """
  kinds = {'float32': 'FP32', 'int32': 'INT32', 'int64': 'INT64'}
  made = []
  for name, array in zip(names, inputs, strict=False):
    if array is not None:
      tensor = client.InferInput(name, array.shape, kinds[str(array.dtype)])
      tensor.set_data_from_numpy(array)
      made.append(tensor)
  return made


def column_tensors(client, rows, interface):
  """Rows of raw values as tensors of the types of the metadata.

  Args:
    client: the module of the client.
    rows: lists of values by column; numbers must not be missing.
    interface: of the model.
  """
  made = []
  for name, spec in interface.columns.items():
    array = array_of(rows[name], spec)
    tensor = client.InferInput(name, array.shape, spec.datatype)
    tensor.set_data_from_numpy(array)
    made.append(tensor)
  return made


def array_of(values, spec):
  """Values of a column as the array that a client sends."""
  if spec.row == (-1,):
    width = max(1, *map(len, values))
    empty = '' if spec.datatype == BYTES else 0.0
    values = [[*bag, *[empty] * (width - len(bag))] for bag in values]
  else:
    values = [[value] for value in values]
  if spec.datatype != BYTES:
    kind = {'FP32': np.float32, 'INT64': np.int64}[spec.datatype]
    return np.array(values, kind)
  texts = [
    ['' if value is None else str(value) for value in row] for row in values
  ]
  return np.array(
    [[text.encode() for text in row] for row in texts], np.object_
  )
