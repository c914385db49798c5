"""Memory and cores that this process may use, inside or outside a container.

Linux containers (Docker, Kubernetes, Slurm) limit both by control groups. A
process is bound by the limits of every group around it, in versions 1 and 2
of control groups alike.
"""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path('/sys/fs/cgroup')
_OF_PROCESS = Path('/proc/self/cgroup')
_MEMINFO = Path('/proc/meminfo')
_CPUINFO = Path('/proc/cpuinfo')


def _groups(controller: str, root: Path, listing: Path) -> Iterator[Path]:
  """Folders of the control groups around this process, innermost first.

  Args:
    controller: name of the controller in version 1; version 2 has all
      controllers in one folder.
    root: mount point of control groups.
    listing: file with a line `number:controllers:path` for each hierarchy.
  """
  try:
    lines = listing.read_text().splitlines()
  except OSError:
    return
  for line in lines:
    _, controllers, path = line.split(':', 2)
    if controllers and controller not in controllers.split(','):
      continue
    top = root / controllers if controllers else root
    if not top.is_dir():
      top = root / controller
    inner = top / path.lstrip('/')
    # A container may see a path of the host; then its root is the group.
    for folder in (inner, *inner.parents) if inner.is_dir() else (top,):
      yield folder
      if folder == top:
        break


def _number(path: Path, word: int = 0) -> float:
  """A number in a file of a control group; infinity if it has none."""
  try:
    return float(path.read_text().split()[word])
  except (OSError, ValueError, IndexError):
    return math.inf


def _free_in_groups(root: Path, listing: Path) -> float:
  """Bytes that the tightest control group leaves; infinity without limits."""
  free = math.inf
  for folder in _groups('memory', root, listing):
    for limit, used in (
      ('memory.max', 'memory.current'),
      ('memory.limit_in_bytes', 'memory.usage_in_bytes'),
    ):
      most = _number(folder / limit)
      if most < 1 << 60:  # Version 1 writes a huge number for "no limit".
        held = _number(folder / used)
        if not math.isfinite(held):
          held = 0.0  # The kernel does not report it.
        kept = max(0.0, held - _reclaimable(folder / 'memory.stat'))
        free = min(free, max(0.0, most - kept))
  return free


def _reclaimable(stat: Path) -> float:
  """Bytes of a group that the kernel frees when memory is needed.

  These are mostly cached files. In version 1, sums that include inner groups
  have names that begin with `total_`.
  """
  try:
    lines = stat.read_text().splitlines()
  except OSError:
    return 0
  values = {
    name.removeprefix('total_'): float(value)  # The sums come last.
    for name, value in (line.split() for line in lines)
  }
  names = 'inactive_file', 'active_file', 'slab_reclaimable'
  return sum(values.get(name, 0.0) for name in names)


def _free_on_host(meminfo: Path) -> float:
  try:
    values = dict(
      line.split(':', 1) for line in meminfo.read_text().splitlines()
    )
    return int(values['MemAvailable'].split()[0]) * 1024
  except (OSError, KeyError):
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2


def free_memory(
  root: Path = _CGROUPS, listing: Path = _OF_PROCESS, meminfo: Path = _MEMINFO
) -> int:
  """Bytes of memory that this process can still allocate.

  Args:
    root: mount point of control groups.
    listing: file that names the groups of this process.
    meminfo: the kernel's table of the host's memory.
  """
  return int(min(_free_on_host(meminfo), _free_in_groups(root, listing)))


def cores(root: Path = _CGROUPS, listing: Path = _OF_PROCESS) -> int:
  """Number of processor cores that this process may use, at least 1.

  A granted fraction of a core counts as a whole core.
  """
  available: float = os.cpu_count() or 1
  if hasattr(os, 'sched_getaffinity'):
    available = len(os.sched_getaffinity(0))
  for folder in _groups('cpu', root, listing):
    quota, period = _number(folder / 'cpu.max'), _number(folder / 'cpu.max', 1)
    if not math.isfinite(quota):
      quota = _number(folder / 'cpu.cfs_quota_us')
      period = _number(folder / 'cpu.cfs_period_us')
    if 0 < quota < math.inf and 0 < period < math.inf:
      available = min(available, math.ceil(quota / period))
  return max(1, int(available))


@functools.cache
def _of_processor(cpuinfo: Path, names: tuple[str, ...]) -> str | None:
  """What Linux says of the first processor under one of these names."""
  try:
    lines = cpuinfo.read_text().splitlines()
  except OSError:
    return None
  return next((line for line in lines if line.startswith(names)), None)


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str] | None:
  """Flags of the processor, as Linux names them; None: they are not known.

  Args:
    cpuinfo: the kernel's table of processors.
  """
  line = _of_processor(cpuinfo, ('flags', 'Features'))
  return None if line is None else frozenset(line.split())


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
  """Name of the processor; '': it is not known. See `cpu_flags`."""
  line = _of_processor(cpuinfo, ('model name',)) or ''
  return line.partition(':')[2].strip()
