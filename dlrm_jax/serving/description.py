"""What a server says of itself and its models, as JSON of the protocol has it.

The messages of gRPC have the same fields.
"""

from importlib import metadata
from typing import Any

from dlrm_jax.serving.interface import Spec
from dlrm_jax.serving.repository import Repository
from dlrm_jax.serving.statistics import Histogram
from dlrm_jax.serving.version import Version

NAME = 'dlrm_jax'
_EXTENSIONS = (
  'binary_tensor_data',
  'model_configuration',
  'model_repository',
  'statistics',
)
_NANOSECONDS = 1e9


def server_metadata() -> dict[str, Any]:
  """Name, version and extensions of the server."""
  return {
    'name': NAME,
    'version': metadata.version(NAME),
    'extensions': list(_EXTENSIONS),
  }


def _tensor(spec: Spec) -> dict[str, Any]:
  return {
    'name': spec.name, 'datatype': spec.datatype, 'shape': spec.shape
  }  # fmt: skip


def model_metadata(
  repository: Repository, model: str, number: str
) -> dict[str, Any]:
  """Inputs and outputs of a version of a model; '': the default."""
  version = repository.find(model, number)
  return {
    'name': version.model,
    'versions': [other.number for other in repository.served(model)],
    'platform': NAME,
    'inputs': list(map(_tensor, version.interface.inputs)),
    'outputs': list(map(_tensor, version.interface.outputs)),
  }


def _in_config(spec: Spec) -> dict[str, Any]:
  """An input or output; the number of rows is not one of its sizes."""
  kind = 'STRING' if spec.datatype == 'BYTES' else spec.datatype
  return {
    'name': spec.name, 'data_type': f'TYPE_{kind}', 'dims': list(spec.row)
  }  # fmt: skip


def model_config(version: Version) -> dict[str, Any]:
  """The configuration of a model, as a repository of Triton has it."""
  sizes, limits = version.program.sizes, version.engine.limits
  parameters = version.interface.parameters() | {'step': str(version.card.step)}
  return {
    'name': version.model,
    'platform': NAME,
    'backend': NAME,
    'max_batch_size': limits.max_batch,
    'input': [
      _in_config(spec) | {'optional': True} for spec in version.interface.inputs
    ],
    'output': list(map(_in_config, version.interface.outputs)),
    'dynamic_batching': {
      'preferred_batch_size': sizes,
      'max_queue_delay_microseconds': round(limits.max_delay * 1e6),
    },
    'parameters': {
      name: {'string_value': value} for name, value in parameters.items()
    },
  }


def _duration(count: int, seconds: float) -> dict[str, int]:
  return {'count': count, 'ns': round(seconds * _NANOSECONDS)}


def _stage(times: Histogram) -> dict[str, int]:
  return _duration(times.count, times.sum)


def model_statistics(version: Version) -> dict[str, Any]:
  """What a version counted."""
  found = version.statistics
  refused = sum(found.refused.values())
  return {
    'name': version.model,
    'version': version.number,
    'last_inference': round(found.last * 1e3),
    'inference_count': found.rows,
    'execution_count': found.batches.count,
    'inference_stats': {
      'success': _stage(found.times['total']),
      'fail': _duration(refused, found.refused_seconds),
      'queue': _stage(found.times['queue']),
      'compute_input': _stage(found.times['coding']),
      'compute_infer': _stage(found.times['compute']),
      'compute_output': _duration(found.answered, 0),
      'cache_hit': _duration(0, 0),
      'cache_miss': _duration(0, 0),
    },
    'batch_stats': [
      {
        'batch_size': rows,
        'compute_input': _duration(of_size.count, of_size.coding),
        'compute_infer': _duration(of_size.count, of_size.compute),
        'compute_output': _duration(of_size.count, 0),
      }
      for rows, of_size in sorted(found.by_rows.items())
    ],
  }


def statistics(
  repository: Repository, model: str, number: str
) -> dict[str, Any]:
  """What the versions of one model, or of all (''), counted."""
  if number:
    found = [repository.find(model, number)]
  else:
    found = list(repository.served(model))
  return {'model_stats': list(map(model_statistics, found))}


def index(repository: Repository, *, only_ready: bool) -> list[dict[str, str]]:
  """The models of a repository."""
  return [
    {
      'name': state.model,
      'version': state.version,
      'state': 'READY' if state.ready else 'UNAVAILABLE',
      'reason': state.reason,
    }
    for state in repository.index()
    if state.ready or not only_ready
  ]
