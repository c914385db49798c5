"""Files of traces: JSON, and the format of facebookresearch/dlrm.

JSON is an object of features, each with the fields of `Trace`:

    {"C1": {"rows": 1000, "exponent": 1.1, "hot": 1000, "hot_share": 1.0}}

facebookresearch/dlrm's `dist_emb_N.log` has three lines of numbers with commas:
the ids in the order of first use; stack distances (0: a new id; 1: the id used
last); and for each distance, the share of distances that are not larger.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm_jax import files
from dlrm_jax.errors import InputError
from dlrm_jax.traces.trace import Trace

Traces = Mapping[str, Trace]
"""Traces by the names of their features."""


def _text(path: str | os.PathLike[str]) -> str:
  try:
    return Path(path).read_text()
  except (OSError, UnicodeDecodeError) as error:
    why = getattr(error, 'strerror', None) or 'not a text file'
    raise InputError(f'{path}: cannot be read ({why})') from None


def write_traces(traces: Traces, path: str | os.PathLike[str]) -> None:
  """Writes traces as JSON, a line for each feature."""
  lines = (
    f'{json.dumps(name)}: {json.dumps(dataclasses.asdict(trace))}'
    for name, trace in traces.items()
  )
  files.write_text(Path(path), '{' + ',\n'.join(lines) + '}\n')


def _number(value: Any, *, whole: bool) -> float:
  kinds = (int,) if whole else (int, float)
  if type(value) not in kinds:
    expected = 'a whole number' if whole else 'a number'
    raise InputError(f'{value!r} where {expected} is expected')
  return value


def _trace(fields: Any) -> Trace:
  """A trace from JSON; errors do not name file and feature."""
  known = [field.name for field in dataclasses.fields(Trace)]
  if not isinstance(fields, dict) or 'rows' not in fields:
    raise InputError('expected an object with rows')
  if unknown := set(fields) - set(known):
    raise InputError(
      f'there is no field {min(unknown)}; fields are {", ".join(known)}'
    )
  values = dict(fields)
  for name, value in fields.items():
    whole = name not in ('exponent', 'hot_share', 'cumulative')
    if name not in ('distances', 'cumulative'):
      values[name] = _number(value, whole=whole)
    elif isinstance(value, list):
      values[name] = tuple(_number(x, whole=whole) for x in value)
    else:
      raise InputError(f'{name} must be a list')
  return Trace(**values)


def read_traces(path: str | os.PathLike[str]) -> dict[str, Trace]:
  """Reads traces from JSON.

  Raises:
    InputError: the file is not valid; the message names file and feature.
  """
  text = _text(path)
  try:
    features = json.loads(text)
  except ValueError as error:
    raise InputError(f'{path}: not JSON ({error})') from None
  if not isinstance(features, dict) or not features:
    raise InputError(f'{path}: expected an object of features, one or more')
  traces = {}
  for name, fields in features.items():
    try:
      traces[name] = _trace(fields)
    except InputError as error:
      raise InputError(f'{path}, feature {name}: {error}') from None
  return traces


def _numbers(path: object, line: int, text: str, kind: type) -> list[Any]:
  try:
    return [kind(number) for number in text.split(',')]
  except ValueError:
    expected = 'whole numbers' if kind is int else 'numbers'
    raise InputError(
      f'{path}, line {line}: {text[:40]!r}; expected {expected} separated by '
      'commas'
    ) from None


def read_dist_emb(path: str | os.PathLike[str]) -> Trace:
  """Reads a file of facebookresearch/dlrm; `rows` is its number of ids.

  Raises:
    InputError: the file is not valid; the message names file and line.
  """
  lines = _text(path).splitlines()
  if len(lines) != 3:
    raise InputError(
      f'{path}: {len(lines)} lines; expected 3: ids, distances, shares'
    )
  kinds = (int, int, float)
  ids, distances, shares = (
    _numbers(path, i, line, kind)
    for i, (line, kind) in enumerate(zip(lines, kinds, strict=True), 1)
  )
  if len(distances) != len(shares):
    raise InputError(
      f'{path}: {len(distances)} distances in line 2 but {len(shares)} shares '
      'in line 3'
    )
  if distances != sorted(set(distances)):
    raise InputError(f'{path}, line 2: distances do not ascend')
  # Distances that are not listed have probability 0.
  steps = dict(zip(distances, shares, strict=True))
  for before, distance in itertools.pairwise(distances):
    steps.setdefault(distance - 1, steps[before])
  order = sorted(steps)
  try:
    return Trace(
      rows=len(set(ids)),
      distances=tuple(order),
      cumulative=tuple(steps[distance] for distance in order),
    )
  except InputError as error:
    raise InputError(f'{path}: {error}') from None
