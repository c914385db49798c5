"""Parameters of requests, in either protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.serving.interface import OUTPUTS
from dlrm_jax.serving.refusal import RefusedError, Why, invalid

NO_SHARED_MEMORY = 'there is no shared memory; send and take the data'
NO_TRACES = 'requests are not traced; /metrics and /stats have their times'
NO_LOG_SETTINGS = 'what is logged cannot be set'

_MICROSECOND = 1e-6
_NOT_HERE = {
  'sequence_id': 'models have no sequences',
  'sequence_start': 'models have no sequences',
  'sequence_end': 'models have no sequences',
  'priority': 'requests have no priorities',
}
_NOT_OF_TENSORS = {
  'shared_memory_region': NO_SHARED_MEMORY,
  'classification': 'there are no classes; take the output itself',
}


def _refuse(parameters: Mapping[str, Any], unknown: Mapping[str, str]) -> None:
  for name, why in unknown.items():
    if parameters.get(name):
      raise RefusedError(Why.UNSUPPORTED, f'parameter {name}: {why}')


def seconds_of(parameters: Mapping[str, Any]) -> float | None:
  """The time that a request has, from its parameter `timeout`; None: any.

  Raises:
    RefusedError: it asks for what there is not.
  """
  _refuse(parameters, _NOT_HERE)
  microseconds = parameters.get('timeout', 0)
  if type(microseconds) is not int or not 0 <= microseconds < 2**63:
    raise invalid(
      f'parameter timeout is {shorten(microseconds)}; expected microseconds'
    )
  return microseconds * _MICROSECOND if microseconds else None


def check_tensor(parameters: Mapping[str, Any]) -> None:
  """Raises a `RefusedError` for a tensor that asks for what there is not."""
  _refuse(parameters, _NOT_OF_TENSORS)


def places_of(names: Sequence[str]) -> list[tuple[str, int]]:
  """Outputs and their places in the scores; all where none is named.

  Raises:
    RefusedError: there is no such output, or it is named twice.
  """
  for name in names:
    if name not in OUTPUTS:
      raise invalid(
        f'there is no output {shorten(name)}; expected {" or ".join(OUTPUTS)}'
      )
  if len(names) > len(set(names)):
    raise invalid('an output is asked for twice')
  return [(name, OUTPUTS.index(name)) for name in names or OUTPUTS]


def check_load(parameters: Mapping[str, Any]) -> None:
  """Raises a `RefusedError` for parameters of a load.

  A server opens only the folders that its flags name.
  """
  if parameters:
    raise RefusedError(
      Why.UNSUPPORTED,
      f'parameter {shorten(next(iter(parameters)))}: models are loaded from '
      'their folders alone, as they are',
    )
