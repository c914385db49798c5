"""The data that a config names: synthetic, or a prepared set."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.config.fields import choose_one, whole
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import Column, Data, Scale, Schema
from dlrm_jax.errors import InputError
from dlrm_jax.synthetic.log import Synthetic, optimum
from dlrm_jax.synthetic.planted import Strength


def _synthetic(fields: Mapping[str, Any]) -> Synthetic:
  values = dict(fields)
  for name in ('tables', 'hotness'):
    values[name] = tuple(fields[name])
    if not all(isinstance(x, int) for x in values[name]):
      raise InputError(
        f'config.data.synthetic.{name} is {values[name]}; expected whole '
        f'numbers'
      )
  values['strength'] = Strength(**fields['strength'])
  return Synthetic(**values)


def open_data(config: ConfigDict) -> Data:
  """The click log that the config names."""
  kind = config.data.kind
  if kind == 'synthetic':
    return _synthetic(config.data.synthetic.to_dict())
  choose_one('data.kind', kind, {'prepared': None, 'synthetic': None})
  if not config.data.dir:
    raise InputError(
      'config.data.dir is empty; prepare a log with `python -m '
      'dlrm_jax.prepare` and pass --config.data.dir=DIR'
    )
  return open_prepared(config.data.dir)


def open_schema(config: ConfigDict) -> tuple[Schema, Scale]:
  """The columns of the data, or those to expect where there is none yet."""
  if config.data.kind != 'prepared' or config.data.dir:
    data = open_data(config)
    return data.schema, data.scale
  expected = config.data.expected
  if not expected.rows:
    raise InputError(
      'config.data.dir is empty, and the config does not say what sizes to '
      'expect (config.data.expected); pass --config.data.dir=DIR'
    )
  hotness = tuple(expected.hotness) or (1,) * len(expected.rows)
  if len(hotness) != len(expected.rows):
    raise InputError(
      f'config.data.expected.hotness has {len(hotness)} numbers; expected '
      f'one for each of the {len(expected.rows)} in config.data.expected.rows'
    )
  columns = tuple(
    Column(
      f'C{i}',
      whole('data.expected.rows', rows, 1),
      whole('data.expected.hotness', length, 1),
    )
    for i, (rows, length) in enumerate(
      zip(expected.rows, hotness, strict=True), 1
    )
  )
  n = whole('data.expected.dense', expected.dense, 0)
  names = tuple(f'I{i}' for i in range(1, n + 1))
  return Schema(names, columns), Scale((0.0,) * n, (1.0,) * n)


def identity(data: Data) -> dict[str, Any]:
  """What a run remembers of its data, as JSON can hold it.

  `fingerprint` is equal for equal data. `ids` is equal for data whose ids mean
  the same: made with the same vocabularies or the same hash, from the same
  kinds of `values`. Data that was prepared before kinds were kept has no
  `values`; `labels` is left out where there is one label.
  """
  kinds = data.details.get('values')
  return {
    'fingerprint': data.fingerprint,
    'ids': data.details.get('ids', data.fingerprint),
    **({'values': kinds} if kinds else {}),
    'scale': data.scale._asdict(),
    **data.schema.to_json(),
  }


def references(
  data: Data, split: str
) -> dict[str, dict[str, dict[str, float]]]:
  """Metrics of a split that are known without a model, by label and name."""
  if not isinstance(data, Synthetic):
    return {label: {} for label in data.schema.labels}
  best = optimum(data.source(split))
  return {label: {'Bayes': metrics} for label, metrics in best.items()}
