"""What `config.data.raw` says of a raw log: which column is what.

    config.data.raw = {
      'format': 'csv',
      'label': 'rating >= 4',  # or a column of 0 and 1, see `raw_label`
      'dense': ['price'],  # or {'price': 'log1p'}
      'sparse': ['user', 'item'],  # or {'user': 'integer', 'item': {...}}
      'bags': ['genres'],  # or {'genres': {'weights': 'genre_weights'}}
      'values': 'string',  # of sparse and bags, where they don't say
      'weight': 'w',  # of examples
      'time': 'when',  # rows are in its order
    }

Types are what the schema says, never what the first rows look like.
"""

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values.label import Label, label_of
from dlrm_jax.prepare.values.typed import KINDS, NUMBER, Words, whole
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse

FIELD = 'data.raw'
VALUES = tuple(KINDS)
"""What sparse values can be: text; 64-bit integers; 1 to 8 hex digits."""

KEYS = (
  *('format', 'label', 'dense', 'sparse', 'bags', 'values'),
  *('weight', 'time', 'missing'),
)
"""Of every format whose columns have names."""

MAX_ROWS = 2**31 - 1

_IDS = ('vocabulary', 'hashed', 'rows')
_TRANSFORMS = ('none', 'log1p', 'log3')
_TAKEN = ('label', 'weight', 'time')


@dataclasses.dataclass(frozen=True)
class DenseSource:
  """A dense feature, and the file's column that has it."""

  column: str
  feature: Dense


@dataclasses.dataclass(frozen=True)
class SparseSource:
  """A sparse feature, and the file's columns that have it.

  Attributes:
    column: of its values.
    feature: what becomes of it. With `hotness`, the first so many values of a
      bag are kept.
    values: one of `VALUES`.
    separator: between the values of a bag that is text.
    weights: the column of a bag's weights; '': none.
  """

  column: str
  feature: Sparse
  values: str
  separator: str = ''
  weights: str = ''


@dataclasses.dataclass(frozen=True)
class RawSchema:
  """Which column of a raw log is what.

  Attributes:
    label: its column, and what is a click.
    dense: the dense features.
    sparse: the sparse features, bags last.
    weight: column of the examples' weights; '': none.
    time: column of the time; '': none.
    missing: what means "missing", beside what always does.
  """

  label: Label
  dense: tuple[DenseSource, ...]
  sparse: tuple[SparseSource, ...]
  weight: str = ''
  time: str = ''
  missing: Words = Words()  # noqa: RUF009, frozen

  @property
  def columns(self) -> Columns:
    """What frames have."""
    return Columns(
      dense=tuple(source.feature for source in self.dense),
      sparse=tuple(source.feature for source in self.sparse),
      weight=bool(self.weight),
      time=bool(self.time),
      label=self.label.column,
    )

  @property
  def names(self) -> tuple[str, ...]:
    """The file's columns that are read, each once."""
    names = [self.label.column, *(source.column for source in self.dense)]
    for source in self.sparse:
      names += [source.column, source.weights]
    names += [self.weight, self.time]
    return tuple(dict.fromkeys(name for name in names if name))

  def check(self, found: Iterable[str], path: str) -> None:
    """Finds the columns among a file's.

    Raises:
      InputError: there is none, or more than one.
    """
    names = list(found)
    shown = ', '.join(map(repr, names[:40]))
    for name in self.names:
      if (count := names.count(name)) == 1:
        continue
      what = f'{count} columns' if count else 'no column'
      hint = '' if count else meant(name, names)
      raise InputError(
        f'{path} has {what} {name!r}, which config.{FIELD} names{hint}; '
        f'expected one; the file has {shown}'
      )


def meant(name: str, names: Iterable[str]) -> str:
  """A guess at a misspelt name, or ''."""
  close = difflib.get_close_matches(name, list(names), 1)
  return f' (did you mean {close[0]!r}?)' if close else ''


def check_keys(
  field: str, given: Iterable[object], known: Collection[str]
) -> None:
  """Raises an `InputError` for a key that is not known."""
  for key in given:
    if key not in known:
      raise InputError(
        f'config.{field} has an unknown key {key!r}{meant(str(key), known)}; '
        f'expected of {", ".join(known)}'
      )


def text(field: str, value: object) -> str:
  """A field that is a text, and not an empty one."""
  if not isinstance(value, str) or not value:
    raise InputError(f'config.{field} is {value!r}; expected a name')
  return value


def one_of(field: str, value: object, words: Collection[str]) -> str:
  """A field that is one of some words."""
  if not isinstance(value, str) or value not in words:
    raise InputError(
      f'config.{field} is {value!r}; expected one of {", ".join(words)}'
    )
  return value


def _features(field: str, given: Any) -> dict[str, Any]:
  """A list of names, or a mapping of them, as a mapping."""
  if isinstance(given, Mapping):
    names = dict(given)
  elif isinstance(given, (list, tuple)):
    names = {text(field, name): None for name in given}
    if len(names) < len(given):
      raise InputError(f'config.{field} names a column twice: {list(given)}')
  else:
    raise InputError(
      f'config.{field} is {given!r}; expected a list of columns, or a mapping '
      'from columns to what they are'
    )
  for name in names:
    check_feature(field, name)
  return names


def check_feature(field: str, name: str) -> None:
  """Raises an `InputError` where no feature can have this name."""
  if name in _TAKEN or '/' in name or name.startswith('.') or '\0' in name:
    raise InputError(
      f'config.{field}: no feature can be called {name!r} (not '
      f'{", ".join(_TAKEN)}, no slash, no dot in front); give it another name '
      f"and say {{'column': {name!r}}}"
    )


def _dense(field: str, given: Any) -> Iterable[DenseSource]:
  for name, options in _features(field, given).items():
    where = f'{field}.{name}'
    if not isinstance(options, Mapping):
      options = {} if options is None else {'transform': options}
    check_keys(where, options, ('transform', 'column'))
    transform = options.get('transform', 'none')
    feature = Dense(name, one_of(f'{where}.transform', transform, _TRANSFORMS))
    yield DenseSource(
      text(f'{where}.column', options.get('column', name)), feature
    )


def encoding(field: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """`ids` and `rows` of a sparse feature."""
  ids = one_of(f'{field}.ids', options.get('ids', 'vocabulary'), _IDS)
  rows = options.get('rows', 0)
  if type(rows) is not int or not 0 <= rows <= MAX_ROWS:
    raise InputError(
      f'config.{field}.rows is {rows!r}; expected 1 ... {MAX_ROWS}'
    )
  if (ids == 'vocabulary') == bool(rows):
    raise InputError(
      f'config.{field}: ids {ids!r} with rows {rows}; expected rows with '
      "'hashed' and 'rows' ids, and none with a vocabulary"
    )
  return {'ids': ids, 'rows': rows}


def hotness_of(field: str, options: Mapping[str, Any]) -> int:
  """`hotness` of a bag; 0: as long as it is."""
  hotness = options.get('hotness', 0)
  if type(hotness) is not int or not 0 <= hotness < 2**15:
    raise InputError(
      f'config.{field}.hotness is {hotness!r}; expected 1 ... 32767, or 0 '
      'for the longest bag'
    )
  return hotness


def _sparse(
  field: str, given: Any, values: str, bag: bool, separated: bool
) -> Iterable[SparseSource]:
  known = ['ids', 'rows', 'values', 'column']
  if bag:
    known += ['hotness', 'weights', *(['separator'] if separated else [])]
  for name, options in _features(field, given).items():
    where = f'{field}.{name}'
    if not isinstance(options, Mapping):
      options = {} if options is None else {'values': options}
    check_keys(where, options, known)
    kind = 'integer' if options.get('ids') == 'rows' else values
    weights = options.get('weights', '')
    separator = ''
    if bag and separated:
      separator = text(f'{where}.separator', options.get('separator', '|'))
    feature = Sparse(
      name,
      **encoding(where, options),
      hotness=hotness_of(where, options) if bag else 1,
      bag=bag,
      weighted=bool(weights),
    )
    yield SparseSource(
      text(f'{where}.column', options.get('column', name)),
      feature,
      one_of(f'{where}.values', options.get('values', kind), VALUES),
      separator,
      text(f'{where}.weights', weights) if weights else '',
    )
    if feature.ids == 'rows' and options.get('values', kind) != 'integer':
      raise InputError(
        f'config.{where}: ids that are rows are integers; expected values '
        "'integer'"
      )


def _missing(field: str, given: Any) -> Words:
  if not isinstance(given, (list, tuple)) or not all(
    isinstance(word, str) or type(word) in (int, float) for word in given
  ):
    raise InputError(
      f'config.{field} is {given!r}; expected a list of words and numbers'
    )
  texts = tuple(map(str, given))
  numbers = tuple(
    int(word) if re.fullmatch('[+-]?[0-9]{1,20}', word) else float(word)
    for word in texts
    if re.match(whole(NUMBER), word)
  )
  return Words(texts, numbers)


def schema_of(raw: Mapping[str, Any], separated: bool) -> RawSchema:
  """Reads the keys `KEYS` of `config.data.raw`.

  Args:
    raw: those keys, and others of the format.
    separated: whether bags are text with separators.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  if 'label' not in raw:
    raise InputError(f'config.{FIELD} has no label; expected a column')
  values = one_of(f'{FIELD}.values', raw.get('values', 'string'), VALUES)
  sparse = (
    *_sparse(f'{FIELD}.sparse', raw.get('sparse', ()), values, False, False),
    *_sparse(f'{FIELD}.bags', raw.get('bags', ()), values, True, separated),
  )
  schema = RawSchema(
    label=label_of(f'{FIELD}.label', raw['label']),
    dense=tuple(_dense(f'{FIELD}.dense', raw.get('dense', ()))),
    sparse=sparse,
    **{
      key: text(f'{FIELD}.{key}', raw[key]) if raw.get(key) else ''
      for key in ('weight', 'time')
    },
    missing=_missing(f'{FIELD}.missing', raw.get('missing', ())),
  )
  _check_features(schema)
  return schema


def _check_features(schema: RawSchema) -> None:
  if not schema.sparse:
    raise InputError(
      f'config.{FIELD} has no sparse features; expected sparse or bags'
    )
  label = schema.names[0]
  for source in (*schema.dense, *schema.sparse):
    if label in (source.column, getattr(source, 'weights', '')):
      raise InputError(
        f'config.{FIELD}: column {label!r} is the label, and feature '
        f'{source.feature.name!r} too, which would tell the model the answer; '
        'leave that feature out'
      )
  names = [source.feature.name for source in (*schema.dense, *schema.sparse)]
  names += [f'{s.feature.name}.weights' for s in schema.sparse if s.weights]
  for name in names:
    if names.count(name) > 1:
      raise InputError(
        f'config.{FIELD} has two features {name!r}; give one another name, '
        f"with {{'column': {name!r}}}"
      )
