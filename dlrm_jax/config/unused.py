"""Fields of a config that say nothing, given what its other fields say."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dlrm_jax.config.kinds import Change

_COMBINED = {
  'hashed',
  'quotient_remainder',
  'chinese_remainder',
  'partitions',
}
_SIZED = {
  'hashed',
  'quotient_remainder',
  'chinese_remainder',
  'tensor_train',
  'robe',
  'mixed_dims',
  'auto',
}
_ENCODINGS: dict[str, set[str]] = {
  'combine': _COMBINED,
  'multi_hot': _COMBINED,
  'compression': _SIZED,
  'rows': _SIZED,
  'threshold': _SIZED | {'partitions'},
  'parts': _SIZED - {'mixed_dims', 'auto'},
  'buckets': {'quotient_remainder', 'chinese_remainder'},
  'hidden': _COMBINED,
  'rank': {'tensor_train'},
  'alpha': {'mixed_dims'},
  'partitions': {'partitions'},
}
"""Fields of tables, and the encodings that read them."""
_PLACEMENTS: dict[str, set[str]] = {
  'spread': {'table_row_wise', 'grid'},
  'columns': {'column_wise', 'grid'},
}
"""Fields of tables, and the placements that read them."""


class Unused(NamedTuple):
  """A field whose value has no effect.

  Attributes:
    field: dotted.
    value: of it.
    why: what makes it so.
    of_feature: whether it is given for a single feature.
    usual: whether configs have it in passing: others are set over it.
  """

  field: str
  value: Any
  why: str
  of_feature: bool = False
  usual: bool = False

  def __str__(self) -> str:
    return f'config.{self.field}={self.value!r} has no effect: {self.why}'


def _why(field: str, options: Mapping[str, Any]) -> str | None:
  """Why a field of a table has no effect; None where it has one."""
  word, of = options['encoding'], 'placement'
  if field in _PLACEMENTS:
    readers, found = _PLACEMENTS[field], options['placement']
  elif field in _ENCODINGS:
    readers, found, of = _ENCODINGS[field], word, 'encoding'
  else:
    return None
  if found not in readers:
    return f'the {of} is {found}, and it is for {", ".join(sorted(readers))}'
  if field == 'combine' and word == 'hashed' and options['parts'] < 2:
    return f'parts={options["parts"]}: one hash is combined with nothing'
  if field == 'hidden' and options['combine'] != 'path':
    return f'combine is {options["combine"]}, and it is for path'
  if field in ('rows', 'compression'):
    if options['buckets'] and word in _ENCODINGS['buckets']:
      return f'buckets={options["buckets"]!r} says how many rows there are'
    if options['alpha'] and word == 'mixed_dims':
      return f'alpha={options["alpha"]} says how wide rows are'
  if field == 'compression' and options['rows']:
    return f'rows={options["rows"]} says how many parameters there are'
  return None


def _of_tables(
  tables: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  features = {
    name: own
    for name, own in tables['features'].items()
    if isinstance(own, Mapping)
  }
  for name, own in features.items():
    for field, value in own.items():
      # What a feature names itself; else the reason may be the others' field.
      if value != defaults.get(field) and (
        why := _why(field, {**tables, **own})
      ):
        yield Unused(f'tables.features.{name}.{field}', value, why, True)
  for field in (*_ENCODINGS, *_PLACEMENTS):
    value, why = tables[field], _why(field, tables)
    read = (
      field not in own and _why(field, {**tables, **own}) is None
      for own in features.values()
    )
    same = (
      tuple(value) == ()
      if isinstance(value, list | tuple)
      else (value == defaults[field])
    )
    if why and not same and not any(read):
      yield Unused(f'tables.{field}', value, why)


def _of_optimizer(
  name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  if not given['decay_steps']:
    for field in ('decay_start', 'decay_power'):
      if given[field] != defaults[field]:
        yield Unused(
          f'{name}.{field}',
          given[field],
          f'{name}.decay_steps is 0, so there is no decay',
          usual=True,
        )


def _of_data(
  data: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  if data['kind'] == 'synthetic':
    if data['dir']:
      yield Unused('data.dir', data['dir'], 'data.kind is synthetic')
    return
  for field, value in data['synthetic'].items():
    default = defaults['synthetic'].get(field)
    if value != default and not (
      isinstance(value, list | tuple) and tuple(value) == tuple(default)
    ):
      yield Unused(
        f'data.synthetic.{field}', value, f'data.kind is {data["kind"]}'
      )
  for field, value in data['expected'].items() if data['dir'] else ():
    if value:
      why = f'data.dir={data["dir"]} says what sizes there are'
      yield Unused(f'data.expected.{field}', value, why, usual=True)


def unused(
  config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  """Fields that differ from their defaults and yet have no effect.

  Args:
    config: a tree of all fields.
    defaults: the same.
  """
  yield from _of_data(config['data'], defaults['data'])
  yield from _of_tables(config['tables'], defaults['tables'])
  for name in ('optimizer', 'table_optimizer'):
    yield from _of_optimizer(name, config[name], defaults[name])
  train = config['train']
  if train['steps'] and train['epochs'] != defaults['train']['epochs']:
    why = f'train.steps={train["steps"]} says how long is trained'
    yield Unused('train.epochs', train['epochs'], why, usual=True)


def with_effect(
  found: Iterable[Change],
  then: Mapping[str, Any],
  now: Mapping[str, Any],
  defaults: Mapping[str, Any],
) -> list[Change]:
  """The changes that change anything.

  A field that has no effect in one config has one in the other only if a
  field that makes it so differs, too; that one stays.

  Args:
    found: between the two configs.
    then: a tree of all fields.
    now: the same.
    defaults: the same.
  """
  dead = tuple(
    f'{field.field}.'
    for tree in (then, now)
    for field in unused(tree, defaults)
  )
  return [c for c in found if not f'{c.field}.'.startswith(dead)]
