"""The objective of a config: the metric that chooses the best checkpoint."""

from ml_collections import ConfigDict

from dlrm_jax.config.fields import choose_one
from dlrm_jax.data.schema import Schema
from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import HIGHER, WITHIN, Objective


def build_objective(config: ConfigDict, schema: Schema) -> Objective:
  """The metric that chooses the best checkpoint: `METRIC` or `LABEL/METRIC`."""
  given = config.train.objective
  several = len(schema.labels) > 1
  names = {
    f'{label}/{metric}' if several else metric: higher
    for label in schema.labels
    for metric, higher in HIGHER.items()
  }
  if given.rpartition('/')[2] in WITHIN and not schema.grouped:
    raise InputError(
      f'config.train.objective is {given!r}, but the examples have no groups; '
      'prepare the log with a column of groups (config.data.raw.group)'
    )
  if several:  # the first label decides where none is named
    given = given if '/' in given else f'{schema.labels[0]}/{given}'
  return Objective(given, choose_one('train.objective', given, names))
