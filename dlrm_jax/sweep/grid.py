"""The grid of a sweep: `FIELD=[VALUE,VALUE,...] FIELD=[...]`.

A value is written as in the flag `--config.FIELD=VALUE`: a word, or a literal
of Python. A point of the grid has one value of each field.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ml_collections import ConfigDict

from dlrm_jax.config.command_line import set_field
from dlrm_jax.config.config_file import wrong_fields
from dlrm_jax.config.kinds import changes
from dlrm_jax.config.unused import unused, with_effect
from dlrm_jax.errors import InputError

_AXIS = re.compile(r'([\w.]+)=\[(.*)\]', re.DOTALL)
_EXAMPLE = "--grid='optimizer.learning_rate=[1e-3,3e-3] model.dim=[8,16]'"
_OTHERS = {
  'seed': 'seeds are counted from config.seed: use --seeds=NUMBER',
  'train.objective': 'it ranks all runs: use --config.train.objective=METRIC',
}
"""Fields that a grid cannot have, and why."""


class Axis(NamedTuple):
  """A field of a grid and the texts of its values."""

  field: str
  texts: Sequence[str]


class Point(NamedTuple):
  """A point of a grid: (field, its value) each."""

  settings: tuple[tuple[str, Any], ...]

  @property
  def named(self) -> dict[str, str]:
    """The text of each value by the short name of its field."""
    names = short_names([field for field, _ in self.settings])
    texts = (value_text(value) for _, value in self.settings)
    return dict(zip(names, texts, strict=True))

  def __str__(self) -> str:
    return ','.join(f'{name}={text}' for name, text in self.named.items())

  @property
  def folder(self) -> str:
    """A name for files; equal for equal points only."""
    return quote(str(self), safe='=,+')


def value_text(value: Any) -> str:
  """A value as text: (400, 400) as 400x400."""
  if isinstance(value, tuple | list):
    return 'x'.join(map(str, value)) or 'none'
  return str(value)


def _frozen(value: Any) -> Any:
  """A value that can be a key: lists become tuples."""
  if isinstance(value, list | tuple):
    return tuple(map(_frozen, value))
  return value


def _split(text: str, separator: str) -> list[str]:
  """The pieces of a text between separators, which brackets and quotes hide.

  Raises:
    ValueError: a bracket or a quote has no partner.
  """
  pieces, depth, quoted = [''], 0, ''
  for letter in text:
    if quoted:
      quoted = '' if letter == quoted else quoted
    elif letter in '\'"':
      quoted = letter
    else:
      depth += (letter in '([{') - (letter in ')]}')
    if depth < 0:
      raise ValueError
    if depth or quoted or not re.match(separator, letter):
      pieces[-1] += letter
    else:
      pieces.append('')
  if depth or quoted:
    raise ValueError
  return [piece.strip() for piece in pieces]


def _value(text: str) -> str:
  """The text of a value as a flag has it: without quotes."""
  quoted = len(text) > 1 and text[0] == text[-1] and text[0] in '\'"'
  return text[1:-1] if quoted else text


def read_grid(text: str) -> list[Axis]:
  """Reads a grid; an empty text has no fields.

  Raises:
    InputError: it is no grid, or a field is there twice.

  >>> read_grid('tables.l2=[0.05, 0.1] model.top=[(64,32)]')[1]
  Axis(field='model.top', texts=['(64,32)'])
  """
  axes: list[Axis] = []
  try:
    pieces = [piece for piece in _split(text, r'\s') if piece]
  except ValueError:
    raise InputError(
      f'--grid={text}: a bracket or a quote is not closed; expected '
      f'FIELD=[VALUE,...] ..., as in {_EXAMPLE}'
    ) from None
  for piece in pieces:
    found = _AXIS.fullmatch(piece)
    try:
      texts = [_value(x) for x in _split(found[2], ',')] if found else []
    except ValueError:
      texts = []
    if not found or not all(texts) or not texts:
      raise InputError(
        f'--grid: found {piece}; expected FIELD=[VALUE,VALUE,...], fields '
        f'apart by spaces, as in {_EXAMPLE}'
      )
    if why := _OTHERS.get(found[1]):
      raise InputError(f'--grid: {found[1]} cannot be in a grid; {why}')
    if found[1] in (axis.field for axis in axes):
      raise InputError(
        f'--grid: {found[1]} is there twice; give all its values in one list'
      )
    axes.append(Axis(found[1], texts))
  return axes


def short_names(fields: Sequence[str]) -> list[str]:
  """The last words of fields; whole names where last words are equal.

  >>> short_names(['tables.l2', 'model.l2', 'model.dim'])
  ['tables.l2', 'model.l2', 'dim']
  """
  last = [field.rpartition('.')[2] for field in fields]
  return [
    name if last.count(name) == 1 else field
    for field, name in zip(fields, last, strict=True)
  ]


def _points(
  config: ConfigDict, axes: Sequence[Axis], known: Mapping[str, Any]
) -> Iterator[tuple[Point, ConfigDict]]:
  """All points and their configs, of which some may be equal."""
  for texts in itertools.product(*(axis.texts for axis in axes)):
    changed = config.copy_and_resolve_references()
    settings = []
    for axis, text in zip(axes, texts, strict=True):
      try:
        value = set_field(changed, axis.field, text, known)
      except InputError as error:
        raise InputError(f'--grid: {error}') from None
      if isinstance(value, ConfigDict | dict):
        raise InputError(
          f'--grid: {axis.field} has fields of its own; name them, as in '
          f'{_EXAMPLE}'
        )
      settings.append((axis.field, _frozen(value)))
    wrong = next(wrong_fields(changed.to_dict(), known), None)
    if wrong:
      raise InputError(f'--grid: {wrong}')
    yield Point(tuple(settings)), changed


def build_points(
  config: ConfigDict, axes: Sequence[Axis], known: Mapping[str, Any]
) -> tuple[dict[Point, ConfigDict], list[str]]:
  """The points of a grid that differ in effect.

  Args:
    config: settings of all points.
    axes: the fields that differ.
    known: a tree of all the fields that a config may have.

  Returns:
    The configs of the points, and notes of those that are left out because
    their run would be the same as that of another point.

  Raises:
    InputError: a field does not exist, cannot have a value, or has an effect
      at no point.
  """
  points: dict[Point, ConfigDict] = {}
  notes: list[str] = []
  dead: dict[str, str] = {}  # why a field has no effect
  for point, changed in _points(config, axes, known):
    now = changed.to_dict()
    dead |= {field.field: str(field) for field in unused(now, known)}
    for other, then in ((p, c.to_dict()) for p, c in points.items()):
      if not with_effect(changes(then, now), then, now, known):
        notes.append(f'{point}: left out, the same run as {other}')
        break
    else:
      points[point] = changed
  for place, axis in enumerate(axes):
    values = {point.settings[place][1] for point in points}
    if len(axis.texts) > 1 and len(values) == 1:
      raise InputError(
        f'--grid: the values of {axis.field} make no difference: '
        f'{dead.get(axis.field, "they are equal")}'
      )
  return points, notes
