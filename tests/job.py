"""Jobs of several processes on this machine, to start, kill and look at."""

import socket

from tests.commands import Command, wait_for_checkpoint


def _free_address():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{taken.getsockname()[1]}'


class Job:
  """A command, run by several processes that know each other.

  Use it as a context manager: processes that still run at the end are killed.

  Attributes:
    processes: number of a process -> its `Command`.
  """

  def __init__(
    self, command, processes, own=(), absent=(), before=(), environment=None
  ):
    """Starts it.

    Args:
      command: module or script and its flags, without those of the cluster.
      processes: how many.
      own: process -> further flags of its own.
      absent: processes that are not started.
      before: process -> function that it calls before the command.
      environment: variables of all of them.
    """
    cluster = []
    if processes > 1:
      address = _free_address()
      cluster = [f'--coordinator={address}', f'--processes={processes}']
    self.processes = {}
    for process in range(processes):
      if process in absent:
        continue
      flags = [*cluster, *([f'--process={process}'] if cluster else [])]
      options = {}
      if process in dict(before):
        options['before'] = before[process]
      self.processes[process] = Command(
        [*command, *flags, *dict(own).get(process, [])],
        environment=environment,
        **options,
      )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for process in self.processes.values():
      process.__exit__()

  def wait_for_checkpoint(self, workdir):
    """Returns as soon as there is one more checkpoint than now."""
    wait_for_checkpoint(workdir, *self.processes.values())

  def end(self):
    """Waits for all; process -> `Done`."""
    return {n: process.end() for n, process in self.processes.items()}


def run(command, processes, status=0, own=(), environment=None):
  """Runs a job to its end; process -> `Done`."""
  with Job(command, processes, own, environment=environment) as job:
    done = job.end()
  assert {x.status for x in done.values()} == {status}, done
  return done
