"""Compiled programs that a command keeps for its next start.

JAX's compilation cache does the work; here is where it lies and what else it
needs. There is a folder in the user's cache folder for each processor and
version of jaxlib, since programs for a CPU run only on CPUs like it. JAX writes
an entry in place, so a command that is killed may leave a part of one, which no
later command would replace. Each command therefore holds a locked mark while it
runs, and removes what was written since a mark whose owner is gone.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib

MOST_BYTES = 2**30
"""Entries may have so many; then the oldest half of them is removed."""

_MARK = 'in_use_'
_held: list[int] = []  # descriptors whose locks last as long as the process


def keep_programs() -> None:
  """Keeps programs that this process compiles, and takes those kept before.

  Must be called before the first of them is compiled. Does nothing where JAX
  was given a folder (JAX_COMPILATION_CACHE_DIR), where its cache is switched
  off (JAX_ENABLE_COMPILATION_CACHE=0), and where the user's cache folder cannot
  be written or may be written by others, as programs are trusted.
  """
  settings: Any = jax.config
  given = settings.jax_compilation_cache_dir is not None
  if given or not settings.jax_enable_compilation_cache:
    return
  try:
    folder = _folder()
    if not _private(folder):
      return
    _clean(folder)
    _hold_mark(folder)
  except (OSError, RuntimeError):  # RuntimeError: there is no home folder
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # Small programs, too: a start compiles some dozens of them.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  # A full disk, or an entry that another command removes: it is compiled.
  warnings.filterwarnings(
    'ignore', 'Error (reading|writing) persistent compilation cache entry'
  )


def _folder() -> Path:
  """The folder, which is made."""
  home = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  processor = f'{platform.machine()} {_processor()}'
  digest = hashlib.sha256(processor.encode()).hexdigest()[:8]
  folder = home / 'dlrm_jax' / f'jaxlib-{jaxlib.__version__}-{digest}'
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  return folder


def _processor() -> str:
  """What tells processors apart that run each other's programs or not."""
  with contextlib.suppress(OSError):
    text = Path('/proc/cpuinfo').read_text(errors='replace')
    first = text.partition('\n\n')[0]
    pattern = r'^(?:model name|flags|Features|CPU part)\s*:.*$'
    return '\n'.join(re.findall(pattern, first, re.M))
  return platform.processor()


def _private(folder: Path) -> bool:
  """Whether this user alone can write into the folder, and can."""
  about = folder.stat()
  others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
  return (
    about.st_uid == os.getuid()
    and not others
    and os.access(folder, os.W_OK | os.X_OK)
  )


def _marks(folder: Path) -> Iterator[tuple[Path, float]]:
  """Marks whose owners are gone, and when they were made."""
  for path in folder.glob(f'{_MARK}*'):
    with contextlib.suppress(OSError), path.open() as mark:
      made = os.fstat(mark.fileno()).st_mtime
      fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
      yield path, made


def _clean(folder: Path) -> None:
  """Removes entries that may be a part of one, and the oldest of too many."""
  gone = list(_marks(folder))
  since = min((made for _, made in gone), default=float('inf'))
  entries = []
  for path in folder.iterdir():
    if not path.name.startswith(_MARK):
      with contextlib.suppress(OSError):
        about = path.stat()
        entries.append((about.st_mtime, about.st_size, path))
  size = sum(entry[1] for entry in entries)
  enough = MOST_BYTES // 2 if size > MOST_BYTES else size
  for made, count, path in sorted(entries):
    if made >= since or size > enough:
      path.unlink(missing_ok=True)
      size -= count
  for path, _ in gone:
    path.unlink(missing_ok=True)


def _hold_mark(folder: Path) -> None:
  """Makes a mark of this process, which goes when the process ends well."""
  path = folder / f'{_MARK}{os.getpid()}_{os.urandom(4).hex()}'
  mark = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
  fcntl.flock(mark, fcntl.LOCK_EX)
  _held.append(mark)
  atexit.register(path.unlink, missing_ok=True)
