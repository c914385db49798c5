"""The numbers of a study as JSON, and back."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm_jax import files, machine
from dlrm_jax.colocate.engine import Part, Times
from dlrm_jax.colocate.models import Spec
from dlrm_jax.colocate.study import Point, Study, Tail, Wanted, cores_text
from dlrm_jax.errors import InputError
from dlrm_jax.report.run_page import environment


def _json_of(point: Point) -> dict[str, Any]:
  times = point.times
  parts = {k: getattr(times, k) for k in ('whole', 'lookup', 'layers')}
  return {
    'engines': point.engines,
    'capacity_qps': point.capacity,
    'kept_qps': point.rate,
    'latency': point.tail and point.tail._asdict(),
    'batch_rows': times.rows,
    'batch_calls': times.calls,
    'batch_seconds': {k: part._asdict() for k, part in parts.items()},
  }


def _settings(wanted: Wanted) -> dict[str, Any]:
  """What all results of a file have in common."""
  return {
    'copies': list(wanted.copies),
    'sizes': wanted.sizes.name,
    'cores': cores_text(wanted.cores),
    'split': wanted.split,
    'exponent': wanted.exponent,
    'rate': wanted.rate,
    'percentile': wanted.percent,
    'seconds': wanted.seconds,
    'seed': wanted.seed,
  }


def _machine() -> dict[str, str]:
  return {'processor': machine.cpu_name(), **environment()}


def _of_spec(spec: Spec, wanted: Wanted) -> dict[str, Any]:
  """What tells results of a model from others."""
  bound = wanted.bounds[spec.name]
  return {
    'model': spec.name,
    'folder': spec.folder and str(spec.folder),
    'storage': spec.storage,
    'scale': spec.scale,
    'mark': spec.mark,
    'target_seconds': bound if math.isfinite(bound) else None,
  }


def as_json(study: Study) -> dict[str, Any]:
  """The study as JSON can hold it; seconds, bytes, queries a second."""
  wanted = study.wanted
  return {
    **_settings(wanted),
    'missing': study.missing,
    'environment': _machine(),
    'models': [
      {
        **_of_spec(spec, wanted),
        'table_bytes': study.bytes[spec].kept,
        'points': list(map(_json_of, study.points[spec])),
      }
      for specs in study.by_name.values()
      for spec in specs
    ],
  }


def _point_of(spec: Spec, fields: Mapping[str, Any]) -> Point:
  """The inverse of `_json_of`."""
  parts = fields['batch_seconds']
  times = Times(
    *(0.0, 0.0, fields['batch_rows'], fields['batch_calls']),
    *(Part(**parts[name]) for name in ('whole', 'lookup', 'layers')),
  )
  tail = fields['latency'] and Tail(**fields['latency'])
  return Point(
    *(spec, fields['engines'], times),
    *(fields['capacity_qps'], fields['kept_qps'], tail),
  )


def read(wanted: Wanted, output: Path) -> dict[Spec, list[Point]]:
  """What an earlier run has measured, by model.

  Args:
    wanted: what is asked for now.
    output: the page.

  Raises:
    InputError: it had other settings or models, was on another machine or with
      other libraries, or the file cannot be read.
  """
  path = output.with_suffix('.json')
  if not path.exists():
    return {}
  otherwise = 'choose another --output, or remove it'
  measured: dict[Spec, list[Point]] = {}
  now = _settings(wanted) | _machine()
  try:
    found = files.read_json(path)
    known = found | found['environment']
    settings = {name: known[name] for name in now}
    others = list(found['models'])
    for spec in wanted.specs:
      about = _of_spec(spec, wanted)
      for model in [x for x in others if about.items() <= x.items()]:
        others.remove(model)
        measured[spec] = [_point_of(spec, x) for x in model['points']]
    names = [f'{x["model"]}, tables {x["storage"]}' for x in others]
  except (OSError, ValueError, LookupError, TypeError, AttributeError):
    raise InputError(
      f'{path}: no results of this command; {otherwise}'
    ) from None
  for name, value in now.items():
    if settings[name] != value:
      raise InputError(
        f'{path}: measured with {name} {settings[name]}, not {value}; '
        f'{otherwise}'
      )
  if names:
    raise InputError(
      f'{path}: has results of {names[0]}, measured with another target, '
      f'scale, folder or content of it, or not asked for now; {otherwise}'
    )
  return measured
