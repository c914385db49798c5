"""The folder of a run: whose it is, and how files come into it.

`config.json` and `data.json` say what the run was started with. The same
command again goes on; another config in the same folder is refused, unless it
only says that tables live elsewhere: then the run goes on from there. The
processes of a job share the folder; the first one claims it for all.
"""

import contextlib
import fcntl
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from dlrm_jax import agreement
from dlrm_jax.errors import InputError

_CONFIG, _DATA = 'config.json', 'data.json'
_OWN = 'tables.features.'  # may follow from the other fields: auto
_CHANGED = '{field} was {then}, is {now}'
_WHERE_TABLES_LIVE = re.compile(
  r'tables\.(features\..+\.)?(shards|placement|spread|columns|memory)'
)


def write_bytes(path: Path, content: bytes) -> None:
  """Writes a file as a whole or not at all."""
  new = path.with_name(f'.{path.name}.tmp')
  new.write_bytes(content)
  new.replace(path)


def write_text(path: Path, text: str) -> None:
  """Writes a text as a whole or not at all."""
  write_bytes(path, text.encode())


def to_json(value: Any, indent: int | None = None) -> str:
  """JSON, in which a number that is not finite is null.

  >>> to_json({'auc': math.nan})
  '{"auc": null}'
  """

  def known(x: Any) -> Any:
    if isinstance(x, Mapping):
      return {k: known(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [known(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(known(value), indent=indent)


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file as a whole or not at all."""
  write_text(path, to_json(value, indent=2) + '\n')


def _flat(tree: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  if isinstance(tree, Mapping):
    for key, value in tree.items():
      yield from _flat(value, f'{prefix}.{key}' if prefix else str(key))
  else:
    yield prefix, tree


def _differences(
  then: Mapping[str, Any],
  now: Mapping[str, Any],
  words: str,
  counts: Callable[[str], bool] = lambda field: True,
) -> str:
  """Fields that differ, as `words` with {field}, {then} and {now} says.

  Args:
    then: a tree of values.
    now: another one.
    words: about a field.
    counts: whether a field is looked at.
  """
  then = dict(_flat(then))
  flat = dict(_flat(json.loads(json.dumps(now))))
  pairs = {
    field: (then.get(field, '(absent)'), flat.get(field, '(absent)'))
    for field in sorted(then.keys() | flat.keys())
  }
  return '; '.join(
    words.format(field=field, then=repr(a), now=repr(b))
    for field, (a, b) in pairs.items()
    if a != b and counts(field)
  )


def _says_where(field: str) -> bool:
  return _WHERE_TABLES_LIVE.fullmatch(field) is not None


def _compare(path: Path, now: Mapping[str, Any], advice: str) -> None:
  """Raises where more differs than where tables live; says why."""
  then = _read(path)

  def given(field: str) -> bool:
    return not _says_where(field) and not field.startswith(_OWN)

  found = _differences(then, now, _CHANGED, given) or _differences(
    then, now, _CHANGED, lambda field: not _says_where(field)
  )
  if found:
    raise InputError(
      f'{path.parent} was made by another run: {found}. {advice}'
    )


def _agree(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
  """Raises where processes were started with other settings or other data."""
  mine = {'config': config, 'data': data}
  first = json.loads(agreement.text_of_first(json.dumps(mine)))
  words = '{field} is {now} here, {then} on process 0'
  found = _differences(first, mine, words)
  others = [str(k) for k, x in enumerate(agreement.from_all(bool(found))) if x]
  if others:
    raise InputError(
      f'process {", ".join(others)} of this job has another config or other '
      f'data than process 0: {found or "its own message says which"}'
    )


def _read(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise InputError(
      f'{path.parent} is not the workdir of a run: no {path.name} in it'
    ) from None
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: unreadable ({error})') from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
  """Makes a folder, or sees that no other process works in it."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / '.lock').open('w')
  except OSError as error:
    raise InputError(
      f'workdir {folder}: {error.strerror}; choose another --workdir'
    ) from None
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise InputError(
        f'workdir {folder}: another process is training in it; wait for it, '
        f'or choose another --workdir'
      ) from None
    yield


def _claim(
  folder: Path, config: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
  if not (folder / _CONFIG).exists():
    if any(folder.glob('checkpoints/[0-9]*')):
      raise InputError(
        f'{folder} has checkpoints but no {_CONFIG} that says how they were '
        f'made; put it back, or choose another --workdir'
      )
    write_json(folder / _DATA, data)
    write_json(folder / _CONFIG, config)
    return
  advice = 'Choose another --workdir, or the settings that it was made with'
  _compare(folder / _CONFIG, config, advice)
  _compare(
    folder / _DATA,
    data,
    'The data was prepared anew or with other options: choose another '
    '--workdir',
  )
  moved = _differences(_read(folder / _CONFIG), config, _CHANGED, _says_where)
  if moved:
    print(f'{folder}: tables live elsewhere from now on: {moved}')
    write_json(folder / _CONFIG, config)


@contextlib.contextmanager
def claimed(
  folder: Path, config: Mapping[str, Any], data: Mapping[str, Any]
) -> Iterator[None]:
  """Makes the folder of a run, or sees that it belongs to this very run.

  No other job can claim it meanwhile; the end of this one frees it.

  Args:
    folder: made if it is not there.
    config: all settings.
    data: what identifies the data.

  Raises:
    InputError: the folder can't be made, another process trains in it, or
      it was made with another config or on other data; or a process of this
      job has another config, other data or another folder. Names the fields
      that differ.
  """
  _agree(config, data)
  if agreement.first():
    with _locked(folder):
      _claim(folder, config, data)
      agreement.from_first(1)  # now the others may look
      yield
    return
  agreement.from_first(0)
  if not (folder / _CONFIG).exists():
    raise InputError(
      f'workdir {folder}: process {jax.process_index()} does not see the '
      f'files of process 0 there; it must be one folder that all hosts share'
    )
  yield


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a run was started with: its config, and what identifies its data.

  Raises:
    InputError: the folder is not that of a run.
  """
  return _read(folder / _CONFIG), _read(folder / _DATA)
