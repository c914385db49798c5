"""The schema of a raw log: reads `config.data.raw`.

    config.data.raw = {
      'format': 'csv',
      'label': 'rating >= 4',  # or a column of 0 and 1, see `label`
      'dense': ['price'],  # or {'price': 'log1p'}
      'sparse': ['user', 'item'],  # or {'user': 'integer', 'item': {...}}
      'bags': ['genres'],  # or {'genres': {'weights': 'genre_weights'}}
      'values': 'string',  # default for sparse features and bags
      'weight': 'w',  # weights of the examples
      'time': 'when',  # time of each row
      'group': 'user',  # for metrics within groups, see docs/raw.md
    }

The schema alone decides the types, never the first rows of a file.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values.checks import (
  FIELD,
  check_keys,
  meant,
  one_of,
  read_name,
)
from dlrm_jax.prepare.values.label import Label, labels_of
from dlrm_jax.prepare.values.typed import KINDS, Words, read_words
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse, Target

VALUES = tuple(KINDS)
"""Kinds of sparse values: text; 64-bit integers; 1 to 8 hex digits."""

KEYS = (
  *('format', 'label', 'dense', 'sparse', 'bags', 'values'),
  *('weight', 'time', 'group', 'missing'),
)
"""Keys of every format whose columns have names."""

MAX_ROWS = 2**31 - 1

_IDS = ('vocabulary', 'hashed', 'rows')
_TRANSFORMS = ('none', 'log1p', 'log3')
_TAKEN = ('label', 'weight', 'time')


@dataclasses.dataclass(frozen=True)
class DenseSource:
  """A dense feature, and its column in the file."""

  column: str
  feature: Dense


@dataclasses.dataclass(frozen=True)
class SparseSource:
  """A sparse feature, and its columns in the file.

  Attributes:
    column: column of the values.
    feature: the feature. Of a bag, the first `hotness` values are kept; 0: all.
    values: kind of the values, one of `VALUES`.
    separator: text between the values of a bag; None where bags are lists.
    weights: column of a bag's weights, or None.
  """

  column: str
  feature: Sparse
  values: str
  separator: str | None = None
  weights: str | None = None


class GroupSource(NamedTuple):
  """The column of the groups, and the kind of its values."""

  column: str
  values: str


@dataclasses.dataclass(frozen=True)
class RawSchema:
  """The features of a raw log and the columns that have them.

  Attributes:
    labels: column of each label, and its values that are clicks, by name.
    dense: the dense features.
    sparse: the sparse features, bags last.
    weight: column of the examples' weights, or None.
    time: column of the time, or None.
    group: column of the groups, or None.
    missing: the log's own words for "missing".
    kept: columns whose values pass through as they are, for a file of
      predictions; then frames have bad rows, too (see `sift.BAD`).
  """

  labels: Mapping[str, Label]
  dense: tuple[DenseSource, ...]
  sparse: tuple[SparseSource, ...]
  weight: str | None = None
  time: str | None = None
  group: GroupSource | None = None
  missing: Words = Words()  # noqa: RUF009, frozen
  kept: tuple[str, ...] = ()

  def to_score(self) -> 'RawSchema':
    """The schema of rows to score: features alone."""
    return dataclasses.replace(
      self, labels={}, weight=None, time=None, group=None
    )

  @property
  def columns(self) -> Columns:
    """Columns of the frames."""
    return Columns(
      dense=tuple(source.feature for source in self.dense),
      sparse=tuple(source.feature for source in self.sparse),
      weight=self.weight is not None,
      time=self.time is not None,
      targets=tuple(
        Target(name, label.column) for name, label in self.labels.items()
      ),
      group=self.group is not None,
    )

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the columns to read from the file, each once."""
    names: list[str | None] = [label.column for label in self.labels.values()]
    names += [source.column for source in self.dense]
    for source in self.sparse:
      names += [source.column, source.weights]
    names += [self.weight, self.time]
    names += [self.group.column] if self.group else []
    names += self.kept
    return tuple(dict.fromkeys(name for name in names if name))

  def check(self, columns: Iterable[str], path: str) -> None:
    """Checks that a file has each column of the schema once.

    Raises:
      InputError: a column is missing, or there are several of its name.
    """
    names = list(columns)
    shown = ', '.join(map(repr, names[:40])) or 'none'
    for name in self.names:
      if (count := names.count(name)) == 1:
        continue
      what = f'{count} columns' if count else 'no column'
      hint = '' if count else meant(name, names)
      by = f'config.{FIELD} names'
      if not self.labels:
        by = '--keep names' if name in self.kept else 'the model reads'
      raise InputError(
        f'{path} has {what} {name!r}, which {by}{hint}; expected one; there '
        f'are {shown}'
      )


def _features(field: str, value: Any) -> dict[str, Any]:
  """A list of names, or a mapping from names to options, as a mapping."""
  if isinstance(value, Mapping):
    names = dict(value)
  elif isinstance(value, (list, tuple)):
    names = {read_name(field, name): None for name in value}
    if len(names) < len(value):
      raise InputError(f'config.{field} names a column twice: {list(value)}')
  else:
    raise InputError(
      f'config.{field} is {value!r}; expected a list of columns, or a mapping '
      'from columns to their options'
    )
  for name in names:
    check_feature(field, name)
  return names


def check_feature(field: str, name: str) -> None:
  """Raises an `InputError` for a name that no feature can have."""
  if name in _TAKEN or '/' in name or name.startswith('.') or '\0' in name:
    raise InputError(
      f'config.{field}: no feature can be called {name!r} (not '
      f'{", ".join(_TAKEN)}, no slash, no dot in front); give it another name '
      f"and say {{'column': {name!r}}}"
    )


def _dense(field: str, value: Any) -> Iterable[DenseSource]:
  for name, options in _features(field, value).items():
    where = f'{field}.{name}'
    if not isinstance(options, Mapping):
      options = {} if options is None else {'transform': options}
    check_keys(where, options, ('transform', 'column'))
    transform = options.get('transform', 'none')
    feature = Dense(name, one_of(f'{where}.transform', transform, _TRANSFORMS))
    yield DenseSource(
      read_name(f'{where}.column', options.get('column', name)), feature
    )


def encoding(field: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the options `ids` and `rows` of a sparse feature."""
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
  """Reads the option `hotness` of a bag; 0: the longest bag's length."""
  hotness = options.get('hotness', 0)
  if type(hotness) is not int or not 0 <= hotness < 2**15:
    raise InputError(
      f'config.{field}.hotness is {hotness!r}; expected 1 ... 32767, or 0 '
      'for the longest bag'
    )
  return hotness


def _sparse(
  field: str, value: Any, values: str, *, bag: bool, separated: bool
) -> Iterable[SparseSource]:
  """Reads the options of sparse features, or of bags."""
  known = ['ids', 'rows', 'values', 'column']
  if bag:
    known += ['hotness', 'weights', *(['separator'] if separated else [])]
  for name, options in _features(field, value).items():
    where = f'{field}.{name}'
    if not isinstance(options, Mapping):
      options = {} if options is None else {'values': options}
    check_keys(where, options, known)
    kind = 'integer' if options.get('ids') == 'rows' else values
    weights = options.get('weights') or None
    separator = None
    if bag and separated:
      separator = read_name(f'{where}.separator', options.get('separator', '|'))
    feature = Sparse(
      name,
      **encoding(where, options),
      hotness=hotness_of(where, options) if bag else 1,
      bag=bag,
      weighted=weights is not None,
    )
    yield SparseSource(
      read_name(f'{where}.column', options.get('column', name)),
      feature,
      one_of(f'{where}.values', options.get('values', kind), VALUES),
      separator,
      weights and read_name(f'{where}.weights', weights),
    )
    if feature.ids == 'rows' and options.get('values', kind) != 'integer':
      raise InputError(
        f'config.{where}: ids that are rows are integers; expected values '
        "'integer'"
      )


def _group(
  field: str, value: Any, sparse: Iterable[SparseSource], values: str
) -> GroupSource | None:
  """Reads the column of the groups.

  Its values are of the kind of a sparse feature of the same column, or else of
  the default kind.
  """
  if not value:
    return None
  column = read_name(field, value)
  kinds = {s.column: s.values for s in sparse if not s.feature.bag}
  return GroupSource(column, kinds.get(column, values))


def _column(raw: Mapping[str, Any], key: str) -> str | None:
  return read_name(f'{FIELD}.{key}', raw[key]) if raw.get(key) else None


def schema_of(raw: Mapping[str, Any], *, separated: bool) -> RawSchema:
  """Reads the keys `KEYS` of `config.data.raw`.

  Args:
    raw: `config.data.raw`, which may have more keys.
    separated: whether bags are text with separators.

  Raises:
    InputError: a key is missing, unknown or of a wrong value.
  """
  if 'label' not in raw:
    raise InputError(f'config.{FIELD} has no label; expected a column')
  values = one_of(f'{FIELD}.values', raw.get('values', 'string'), VALUES)
  singles, bags = raw.get('sparse', ()), raw.get('bags', ())
  sparse = (
    *_sparse(f'{FIELD}.sparse', singles, values, bag=False, separated=False),
    *_sparse(f'{FIELD}.bags', bags, values, bag=True, separated=separated),
  )
  schema = RawSchema(
    labels=labels_of(f'{FIELD}.label', raw['label']),
    dense=tuple(_dense(f'{FIELD}.dense', raw.get('dense', ()))),
    sparse=sparse,
    weight=_column(raw, 'weight'),
    time=_column(raw, 'time'),
    group=_group(f'{FIELD}.group', raw.get('group'), sparse, values),
    missing=read_words(f'{FIELD}.missing', raw.get('missing', ())),
  )
  _check_features(schema)
  return schema


def _check_features(schema: RawSchema) -> None:
  if not schema.sparse:
    raise InputError(
      f'config.{FIELD} has no sparse features; expected sparse or bags'
    )
  labels = {label.column for label in schema.labels.values()}
  for source in (*schema.dense, *schema.sparse):
    columns = {source.column, getattr(source, 'weights', None)}
    for label in labels & columns:
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
