"""Compiled programs that a command keeps for its next start.

JAX's compilation cache does the work; here is where it lies and what else it
needs. There is a folder in the user's cache folder for each processor and
version of jaxlib, since programs for a CPU run only on CPUs like it. JAX writes
an entry in place, and never again where there is one. So an entry that a full
disk or a kill has cut would be compiled anew by every command; each command
removes such entries among those written since the command before.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import stat
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib

MOST_BYTES = 2**30
"""Entries of all folders may have so many; then the half written first goes."""

_UNUSED = 90 * 24 * 3600  # seconds, after which the folder of a version goes
_CHECKED = 'checked'  # whose time is that of the last check
_ENTRY = '-cache'  # ends the names of JAX's entries
_ZSTANDARD = b'\x28\xb5\x2f\xfd'  # begins what JAX compresses with it


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
  home = Path(os.environ.get('XDG_CACHE_HOME', ''))
  if not home.is_absolute():  # such ones do not count
    home = Path.home().resolve(strict=True) / '.cache'
  # JAX cannot unpack what it packed with another library than is there now.
  packs = importlib.util.find_spec('zstandard') is not None
  about = f'{platform.machine()} {_processor()} {packs} {sys.version_info[:2]}'
  digest = hashlib.sha256(about.encode()).hexdigest()[:8]
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


class _Entry(NamedTuple):
  """An entry, when it was written, and its size in bytes."""

  made: float
  size: int
  path: Path


def _entries(folder: Path) -> Iterator[_Entry]:
  """Those of a folder, and of the folders beside it."""
  for path in folder.parent.glob(f'*/*{_ENTRY}'):
    with contextlib.suppress(OSError):  # another command has removed it
      about = path.stat()
      yield _Entry(about.st_mtime, about.st_size, path)


def _clean(folder: Path) -> None:
  """Removes entries that are cut, the first of too many, and old versions."""
  mark, start = folder / _CHECKED, time.time()
  before = mark.stat().st_mtime if mark.exists() else 0.0
  entries = sorted(_entries(folder))
  size = sum(entry.size for entry in entries)
  enough = MOST_BYTES // 2 if size > MOST_BYTES else size
  for made, count, path in entries:
    new = path.parent == folder and made >= before
    if size > enough or (new and not _is_whole(path)):
      path.unlink(missing_ok=True)
      size -= count
  mark.touch(mode=0o600)
  os.utime(mark, (start, start))
  for other in folder.parent.glob(f'*/{_CHECKED}'):
    with contextlib.suppress(OSError):
      if other.stat().st_mtime < start - _UNUSED:
        shutil.rmtree(other.parent, ignore_errors=True)


def _is_whole(path: Path) -> bool:
  """Whether an entry can be unpacked; True where that cannot be told."""
  try:
    packed = path.read_bytes()
    if not packed.startswith(_ZSTANDARD):
      zlib.decompress(packed)
      return True
  except OSError:
    return True
  except zlib.error:
    return False
  try:
    zstandard: Any = importlib.import_module('zstandard')
  except ImportError:
    return True
  try:
    zstandard.ZstdDecompressor().decompress(packed)
  except zstandard.ZstdError:
    return False
  return True
