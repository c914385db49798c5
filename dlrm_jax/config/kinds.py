"""What a change of each field of the config means to a run that goes on.

Every field of `configs/default.py` stands here once; a field that is added
there must be added here, too, and where runs of before did something else
than its default says, to `_BEFORE`.
"""

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dlrm_jax.errors import InputError


class Kind(enum.Enum):
  """What follows when a run is started again with another value.

  Attributes:
    IDENTITY: it would be another run; refused.
    FREE: taken as given; what is learned does not depend on it.
    PLACE: the same, for where tables live: their rows are moved.
    HORIZON: how long is trained; more is trained, or less.
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
)
_TABLE_PLACE = ('placement', 'spread', 'columns')

KINDS: dict[str, Kind] = {
  field: kind
  for kind, fields in {
    Kind.IDENTITY: (
      'seed',
      'data.kind',
      'data.synthetic',
      'data.lanes',
      'data.window',
      'model.dim',
      'model.bottom',
      'model.top',
      'model.dense_scaling',
      'model.interaction',
      'model.compute_dtype',
      'tables.encoding',
      'tables.combine',
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
      'tables.init_scale',
      'tables.average_every',
      'tables.features',
      *(f'optimizer.{name}' for name in _OPTIMIZER),
      *(f'table_optimizer.{name}' for name in _OPTIMIZER),
      'train.loss',
      'train.batch_size',
      'train.fresh_tables',
      'train.objective',
    ),
    # The data's own fingerprint says whether it is the same.
    Kind.FREE: (
      'data.dir',
      'data.synthetic.trace',
      'data.raw',
      'data.expected',
      # Until now there was none, or it was row 0 from the start.
      'data.out_of_range',
      'train.micro_batch',
      'train.log_every',
      'train.eval_every',
      'train.eval_batch_size',
      'train.checkpoint_every',
      'train.keep',
    ),
    Kind.PLACE: (
      'tables.shards',
      'tables.memory',
      *(f'tables.{name}' for name in _TABLE_PLACE),
      *(f'tables.features.*.{name}' for name in _TABLE_PLACE),
    ),
    Kind.HORIZON: ('train.steps', 'train.epochs', 'train.patience'),
  }.items()
  for field in fields
}
"""Fields, or all below one, that are of a kind; `*` is any name."""

OPEN = ('data.raw', 'tables.features')
"""Fields whose own fields differ from config to config."""

_BEFORE: dict[str, Any] = {
  # Tables of any size were hashed.
  'tables.threshold': 0,
}
"""What runs did that were started before a field was there, if not its
default."""


def listed(field: str) -> str | None:
  """The entry of `KINDS` that says the kind of a field; None: there is none.

  >>> listed('tables.features.C1.spread'), listed('data.synthetic.seed')
  ('tables.features.*.spread', 'data.synthetic')
  """
  names = field.split('.')
  if field.startswith('tables.features.'):
    names[2:-1] = '*'  # a name of a feature may have dots
  for length in range(len(names), 0, -1):
    found = '.'.join(names[:length])
    if found in KINDS:
      return found
  return None


def kind_of(field: str) -> Kind:
  """The kind of a field; one that is nowhere is part of the identity."""
  return KINDS.get(listed(field) or '', Kind.IDENTITY)


def flat(tree: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """The values of a tree by their dotted names."""
  if isinstance(tree, Mapping):
    for key, value in tree.items():
      yield from flat(value, f'{prefix}.{key}' if prefix else str(key))
  else:
    yield prefix, tree


class Change(NamedTuple):
  """A field whose value is not what it was."""

  field: str
  then: Any
  now: Any

  def __str__(self) -> str:
    return f'{self.field} was {_said(self.then)}, is {_said(self.now)}'


_ABSENT = object()


def _said(value: Any) -> str:
  return "'(absent)'" if value is _ABSENT else repr(value)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
  """Fields of which two trees have other values, by name."""
  a, b = (dict(flat(json.loads(json.dumps(tree)))) for tree in (then, now))
  return [
    Change(field, a.get(field, _ABSENT), b.get(field, _ABSENT))
    for field in sorted(a.keys() | b.keys())
    if a.get(field, _ABSENT) != b.get(field, _ABSENT)
  ]


def of_kind(found: Iterable[Change], kind: Kind) -> list[Change]:
  """The changes of fields of a kind."""
  return [change for change in found if kind_of(change.field) is kind]


def completed(
  config: Mapping[str, Any], defaults: Mapping[str, Any], where: object
) -> dict[str, Any]:
  """A config of an earlier version, with the fields that it did not have.

  Args:
    config: all fields that there were.
    defaults: all fields that there are.
    where: the config was read, for messages.

  Raises:
    InputError: it has a field that there is no more, or not yet.
  """
  known = dict(flat(json.loads(json.dumps(defaults))))
  for field, value in flat(config):
    if field not in known and not field.startswith(
      tuple(f'{x}.' for x in OPEN)
    ):
      raise InputError(
        f'{where}: {field} is {value!r}, and this version of dlrm_jax has no '
        f'such field; use the version that wrote it'
      )
  found = json.loads(json.dumps(config))
  there = dict(flat(config))
  for field, default in known.items():
    if field not in there:
      *sections, name = field.split('.')
      inner = found
      for section in sections:
        inner = inner.setdefault(section, {})
      inner[name] = _BEFORE.get(field, default)
  for section in OPEN:
    outer, name = section.split('.')
    found[outer].setdefault(name, {})
  return found
