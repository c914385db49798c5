"""Finds fields of a config that have no effect beside its other fields."""

import json
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
"""Encodings that read a field of config.tables, by field."""
_PLACEMENTS: dict[str, set[str]] = {
  'spread': {'table_row_wise', 'grid'},
  'columns': {'column_wise', 'grid'},
}
"""Placements that read a field of config.tables, by field."""


_WITHOUT_LAYERS = ('bottom', 'top', 'norm', 'dropout')
_MODELS: dict[str, tuple[str, ...]] = {
  'lr': (*_WITHOUT_LAYERS, 'compute_dtype', 'dim'),
  'fm': (*_WITHOUT_LAYERS, 'compute_dtype'),
  'mf': (*_WITHOUT_LAYERS, 'compute_dtype', 'l2'),
  'gmf': _WITHOUT_LAYERS,
}
"""Fields of config.model that a model does not read; others read them all."""


class Unused(NamedTuple):
  """A field whose value has no effect.

  Attributes:
    field: dotted name.
    value: value of the field.
    why: the reason.
    of_feature: whether the field is that of a single feature.
    usual: whether such fields are common: a config is often changed by flags
      that make other fields of it useless.
  """

  field: str
  value: Any
  why: str
  of_feature: bool = False
  usual: bool = False

  def __str__(self) -> str:
    return f'config.{self.field}={self.value!r} has no effect: {self.why}'


def _why(field: str, options: Mapping[str, Any]) -> str | None:
  """Why a field of config.tables has no effect; None where it has one."""
  encoding = options['encoding']
  for choice, all_readers in (
    ('placement', _PLACEMENTS),
    ('encoding', _ENCODINGS),
  ):
    readers = all_readers.get(field)
    if readers is not None and options[choice] not in readers:
      return (
        f'the {choice} is {options[choice]}, and it is for '
        f'{", ".join(sorted(readers))}'
      )
  if field == 'combine' and encoding == 'hashed' and options['parts'] < 2:
    return f'parts={options["parts"]}: one hash is combined with nothing'
  if field == 'hidden' and options['combine'] != 'path':
    return f'combine is {options["combine"]}, and it is for path'
  if field in ('rows', 'compression'):
    if options['buckets'] and encoding in _ENCODINGS['buckets']:
      return f'buckets={options["buckets"]!r} says how many rows there are'
    if options['alpha'] and encoding == 'mixed_dims':
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
      # Only fields that the feature itself sets are checked here.
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


def _of_state(
  config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  if config['table_optimizer']['name'] != 'sgd':
    return
  default, why = defaults['tables']['state'], 'sgd keeps no state of rows'
  if config['tables']['state'] != default:
    yield Unused('tables.state', config['tables']['state'], why)
  for name, own in config['tables']['features'].items():
    value = own.get('state', default) if isinstance(own, Mapping) else default
    if value != default:
      yield Unused(f'tables.features.{name}.state', value, why, True)


def _of_optimizer(
  section: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  no_decay = f'{section}.decay_steps is 0, so there is no decay'
  no_adam = f'{section}.name is {fields["name"]}, and it is for adam'
  for dead, names, why in (
    (
      not fields['decay_steps'],
      ('decay', 'decay_start', 'decay_power'),
      no_decay,
    ),
    (fields['name'] != 'adam', ('b1', 'b2', 'eps'), no_adam),
  ):
    for field in names:
      if dead and fields[field] != defaults[field]:
        usual = why is no_decay
        yield Unused(f'{section}.{field}', fields[field], why, usual=usual)


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
      why = f'the set in data.dir={data["dir"]} has its own sizes'
      yield Unused(f'data.expected.{field}', value, why, usual=True)


def _of_model(
  model: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  name = model['name']
  for field in ('activations', 'outliers'):
    if model['compute_dtype'] != 'int8' and model[field] != defaults[field]:
      why = f'model.compute_dtype is {model["compute_dtype"]}, not int8'
      yield Unused(f'model.{field}', model[field], why)
  for field in _MODELS.get(name, ()):
    if json.dumps(model[field]) != json.dumps(defaults[field]):
      why = f'model.name is {name}, which has nothing that it sets'
      yield Unused(f'model.{field}', model[field], why, usual=True)
  for section, fields in model.items():
    if not isinstance(fields, Mapping) or section == name:
      continue
    for field, value in fields.items():
      default = defaults[section].get(field)
      if json.dumps(value) != json.dumps(default):
        why = f'model.name is {name}'
        yield Unused(f'model.{section}.{field}', value, why, usual=True)


def unused(
  config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[Unused]:
  """Fields that differ from their defaults and yet have no effect.

  Args:
    config: a tree of all fields.
    defaults: a tree of all fields with their defaults.
  """
  yield from _of_data(config['data'], defaults['data'])
  yield from _of_model(config['model'], defaults['model'])
  yield from _of_tables(config['tables'], defaults['tables'])
  yield from _of_state(config, defaults)
  for section in ('optimizer', 'table_optimizer'):
    yield from _of_optimizer(section, config[section], defaults[section])
  train = config['train']
  plateau, usual = train['plateau'], defaults['train']['plateau']
  if not plateau['patience']:
    for field in ('factor', 'least'):
      if plateau[field] != usual[field]:
        why = 'train.plateau.patience is 0, so rates do not fall'
        yield Unused(f'train.plateau.{field}', plateau[field], why)
  pruning, usual = train['pruning'], defaults['train']['pruning']
  if not pruning['sparsity']:
    for field in ('block', 'start', 'steps', 'every'):
      if pruning[field] != usual[field]:
        why = 'train.pruning.sparsity is 0, so nothing is pruned'
        yield Unused(f'train.pruning.{field}', pruning[field], why)
  if train['steps'] and train['epochs'] != defaults['train']['epochs']:
    why = f'train.steps={train["steps"]} says how long is trained'
    yield Unused('train.epochs', train['epochs'], why, usual=True)


def with_effect(
  changed: Iterable[Change],
  then: Mapping[str, Any],
  now: Mapping[str, Any],
  defaults: Mapping[str, Any],
) -> list[Change]:
  """The changes of fields that have an effect.

  A change is left out where its field has no effect in either config. If the
  field has an effect in the other one, then so has another changed field (such
  as the encoding), whose change remains.

  Args:
    changed: all changes between the two configs.
    then: a tree of all fields of the earlier config.
    now: a tree of all fields of the later config.
    defaults: a tree of all fields with their defaults.
  """
  without_effect = tuple(
    f'{field.field}.'
    for tree in (then, now)
    for field in unused(tree, defaults)
  )
  return [c for c in changed if not f'{c.field}.'.startswith(without_effect)]
