"""What a change of each field of a config means to a run that is continued.

Every field of `configs/default.py` has an entry in `KINDS`; so must each new
field. If runs of earlier versions did something else than its default says,
the field also needs an entry in `_EARLIER_VALUES`.
"""

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dlrm_jax.errors import InputError


class FieldKind(enum.Enum):
  """What happens when a run is continued with another value of a field.

  Attributes:
    IDENTITY: the run is refused, since it would be another run.
    FREE: the new value is used; what is learned does not depend on it.
    PLACE: the rows of the tables are moved to where the new value puts them.
    HORIZON: the run becomes longer or shorter.
  """

  IDENTITY = 'identity'
  FREE = 'free'
  PLACE = 'place'
  HORIZON = 'horizon'


_OPTIMIZER = (
  'name',
  'learning_rate',
  'warmup_steps',
  'decay_start',
  'decay_steps',
  'decay_power',
  'b1',
  'b2',
  'eps',
  'decay',
  'weight_decay',
)
_TABLE_PLACE = ('placement', 'spread', 'columns')

KINDS: dict[str, FieldKind] = {
  field: kind
  for kind, fields in {
    FieldKind.IDENTITY: (
      'seed',
      'data.kind',
      'data.synthetic',
      'data.lanes',
      'data.window',
      'data.negatives',
      'model',
      'tables.encoding',
      'tables.combine',
      'tables.storage',
      'tables.state',
      'tables.compression',
      'tables.rows',
      'tables.threshold',
      'tables.parts',
      'tables.buckets',
      'tables.hidden',
      'tables.rank',
      'tables.alpha',
      'tables.partitions',
      'tables.multi_hot',
      'tables.pooling',
      'tables.init',
      'tables.init_scale',
      'tables.update',
      'tables.l2',
      'tables.bag_l2',
      'tables.average_every',
      'tables.features',
      *(f'optimizer.{name}' for name in _OPTIMIZER),
      *(f'table_optimizer.{name}' for name in _OPTIMIZER),
      'train.loss',
      'train.label_weights',
      'train.batch_size',
      'train.clip',
      'train.plateau',
      'train.pruning',
      'train.init_from',
      'train.fresh_tables',
      'train.objective',
    ),
    # Whether the data is the same is decided by its fingerprint.
    FieldKind.FREE: (
      'data.dir',
      'data.synthetic.trace',
      'data.raw',
      'data.expected',
      # Until the change the data had no such id, or the id became row 0.
      'data.out_of_range',
      'train.micro_batch',
      'train.log_every',
      'train.eval_every',
      'train.eval_batch_size',
      'train.checkpoint_every',
      'train.keep',
      'train.cache_programs',
    ),
    FieldKind.PLACE: (
      'tables.shards',
      'tables.memory',
      *(f'tables.{name}' for name in _TABLE_PLACE),
      *(f'tables.features.*.{name}' for name in _TABLE_PLACE),
    ),
    FieldKind.HORIZON: ('train.steps', 'train.epochs', 'train.patience'),
  }.items()
  for field in fields
}
"""The kind of a field, or of all fields of a section; `*` is any name."""

OPEN = ('data.raw', 'tables.features')
"""Sections whose fields differ from config to config."""

_RENAMED = {'model.interaction': 'model.dlrm.interaction'}
"""Names that fields have by the names that they had in earlier versions."""

_EARLIER_VALUES: dict[str, Any] = {
  # Tables of any size were hashed.
  'tables.threshold': 0,
}
"""What runs of versions without a field did, where it is not the default."""


def kind_entry(field: str) -> str | None:
  """The key of `KINDS` that covers a field, or None.

  >>> kind_entry('tables.features.C1.spread'), kind_entry('data.synthetic.seed')
  ('tables.features.*.spread', 'data.synthetic')
  """
  names = field.split('.')
  if field.startswith('tables.features.'):
    names[2:-1] = '*'  # a name of a feature may have dots
  for length in range(len(names), 0, -1):
    entry = '.'.join(names[:length])
    if entry in KINDS:
      return entry
  return None


def field_kind(field: str) -> FieldKind:
  """The kind of a field; IDENTITY where `KINDS` has no entry."""
  return KINDS.get(kind_entry(field) or '', FieldKind.IDENTITY)


def flatten(tree: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """The (dotted name, value) pairs of a nested mapping."""
  if isinstance(tree, Mapping):
    for key, value in tree.items():
      yield from flatten(value, f'{prefix}.{key}' if prefix else str(key))
  else:
    yield prefix, tree


class Change(NamedTuple):
  """A field whose value differs between two configs.

  Attributes:
    field: dotted name.
    then: value in the earlier config.
    now: value in the later config.
  """

  field: str
  then: Any
  now: Any

  def __str__(self) -> str:
    return f'{self.field} was {_text(self.then)}, is {_text(self.now)}'


_ABSENT = object()


def _text(value: Any) -> str:
  return "'(absent)'" if value is _ABSENT else repr(value)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
  """The fields whose values differ between two trees, by name."""
  a, b = (dict(flatten(json.loads(json.dumps(tree)))) for tree in (then, now))
  return [
    Change(field, a.get(field, _ABSENT), b.get(field, _ABSENT))
    for field in sorted(a.keys() | b.keys())
    if a.get(field, _ABSENT) != b.get(field, _ABSENT)
  ]


def of_kind(changed: Iterable[Change], kind: FieldKind) -> list[Change]:
  """The changes whose fields are of a kind."""
  return [change for change in changed if field_kind(change.field) is kind]


def _set(tree: dict[str, Any], field: str, value: Any) -> None:
  *sections, name = field.split('.')
  for section in sections:
    tree = tree.setdefault(section, {})
  tree[name] = value


def _rename(tree: dict[str, Any], old: str, new: str) -> None:
  """Gives a field of a tree its new name, if it has the old one."""
  *sections, name = old.split('.')
  inner: Any = tree
  for section in sections:
    inner = inner.get(section)
    if not isinstance(inner, dict):
      return
  if name in inner:
    _set(tree, new, inner.pop(name))


def _open() -> tuple[str, ...]:
  """How the names of fields that a config makes up itself begin."""
  return tuple(f'{section}.' for section in OPEN)


def completed(
  config: Mapping[str, Any], defaults: Mapping[str, Any], where: object
) -> dict[str, Any]:
  """A config of an earlier version, completed with the fields added since.

  Args:
    config: a tree of all fields of the earlier version.
    defaults: a tree of all fields of this version.
    where: file that the config was read from, for messages.

  Raises:
    InputError: the config has a field that this version does not have.
  """
  known = dict(flatten(json.loads(json.dumps(defaults))))
  complete = json.loads(json.dumps(config))
  for old, new in _RENAMED.items():
    _rename(complete, old, new)
  earlier = dict(flatten(complete))
  for field, value in earlier.items():
    if field not in known and not field.startswith(_open()):
      raise InputError(
        f'{where}: {field} is {value!r}, and this version of dlrm_jax has no '
        f'such field; use the version that wrote it'
      )
  for field, default in known.items():
    if field not in earlier and not field.startswith(_open()):
      _set(complete, field, _EARLIER_VALUES.get(field, default))
  for section in OPEN:
    outer, name = section.split('.')
    complete[outer].setdefault(name, {})
  return complete
