"""The folder of a run: whose it is, and how files come into it.

`config.json` and `data.json` say what the run was started with. The same
command again goes on; another config in the same folder is refused.
"""

import contextlib
import fcntl
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlrm_jax.errors import InputError

_CONFIG, _DATA = 'config.json', 'data.json'


def write_text(path: Path, text: str) -> None:
  """Writes a file as a whole or not at all."""
  new = path.with_name(f'.{path.name}.tmp')
  new.write_text(text, encoding='utf-8')
  new.replace(path)


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
  if isinstance(tree, Mapping) and tree:
    for key, value in tree.items():
      yield from _flat(value, f'{prefix}.{key}' if prefix else str(key))
  else:
    yield prefix, tree


def _compare(path: Path, now: Mapping[str, Any], advice: str) -> None:
  then = dict(_flat(_read(path)))
  flat = dict(_flat(json.loads(json.dumps(now))))
  for field in sorted(then.keys() | flat.keys()):
    if then.get(field) == flat.get(field):
      then.pop(field, None)
      flat.pop(field, None)
  differing = [
    f'{field} was {then.get(field, "(absent)")!r}, is '
    f'{flat.get(field, "(absent)")!r}'
    for field in sorted(then.keys() | flat.keys())
  ]
  if differing:
    raise InputError(
      f'{path.parent} was made by another run: {"; ".join(differing)}. {advice}'
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
def claimed(
  folder: Path, config: Mapping[str, Any], data: Mapping[str, Any]
) -> Iterator[None]:
  """Makes the folder of a run, or sees that it belongs to this very run.

  No other process can claim it meanwhile; the end of this one frees it.

  Args:
    folder: made if it is not there.
    config: all settings.
    data: what identifies the data.

  Raises:
    InputError: the folder can't be made, another process trains in it, or
      it was made with another config or on other data; names the fields that
      differ.
  """
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
    _claim(folder, config, data)
    yield


def _claim(
  folder: Path, config: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
  if not (folder / _CONFIG).exists():
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


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a run was started with: its config, and what identifies its data.

  Raises:
    InputError: the folder is not that of a run.
  """
  return _read(folder / _CONFIG), _read(folder / _DATA)
