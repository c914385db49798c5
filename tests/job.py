"""Jobs of real processes on this machine, to start, kill and look at."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  # Most of the time of these short jobs goes into their compilation.
  'XLA_FLAGS': '--xla_backend_optimization_level=0'
  ' --xla_llvm_disable_expensive_passes=true',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'PYTHONPATH': str(ROOT),
}
PATIENCE = 300  # seconds, of tests on a busy machine


def free_address():
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{found.getsockname()[1]}'


class Job:
  """A command, run by several processes that know each other.

  Use it as a context manager: what still runs at the end is killed.
  """

  def __init__(self, command, processes, own=(), absent=()):
    """Starts it.

    Args:
      command: module or script and its flags, without those of the cluster.
      processes: how many.
      own: process -> further flags of its own.
      absent: processes that are not started.
    """
    self._output = {}
    self.running = {}
    cluster = []
    if processes > 1:
      address = free_address()
      cluster = [f'--coordinator={address}', f'--processes={processes}']
    for process in range(processes):
      if process in absent:
        continue
      flags = [*cluster, *([f'--process={process}'] if cluster else [])]
      self.running[process] = subprocess.Popen(
        [
          sys.executable,
          *map(str, command),
          *flags,
          *dict(own).get(process, []),
        ],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for process in self.running.values():
      process.kill()
      process.communicate()

  def send(self, process, number):
    """Sends a signal to one of the processes, which must still run."""
    assert self.running[process].poll() is None, self.end()
    self.running[process].send_signal(number)

  def kill(self, process):
    self.send(process, signal.SIGKILL)

  def wait_for_checkpoint(self, workdir):
    """Returns as soon as there is one more checkpoint than now."""
    before = _checkpoints(workdir)
    end = time.monotonic() + PATIENCE
    while not _checkpoints(workdir) - before:
      assert time.monotonic() < end, self.end()
      assert all(p.poll() is None for p in self.running.values()), self.end()
      time.sleep(0.01)

  def end(self, within=PATIENCE):
    """Waits for all; process -> (status, stdout, stderr)."""
    end = time.monotonic() + within
    for number, process in self.running.items():
      if number not in self._output:
        left = max(end - time.monotonic(), 0.1)
        out, err = process.communicate(timeout=left)
        self._output[number] = process.returncode, out, err
    return self._output


def _checkpoints(workdir):
  folder = pathlib.Path(workdir) / 'checkpoints'
  if not folder.exists():
    return set()
  return {name for name in os.listdir(folder) if name.isdigit()}


def run(command, processes, status=0, own=()):
  """Runs a job to its end; process -> (status, stdout, stderr)."""
  with Job(command, processes, own) as job:
    done = job.end()
  assert {found for found, _, _ in done.values()} == {status}, done
  return done
