"""Requests to score in JSON, whose tensors may be bytes behind the JSON."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.serving.parameters import check_tensor, places_of, seconds_of
from dlrm_jax.serving.refusal import invalid
from dlrm_jax.serving.tensors import Tensor, of_bytes, of_json

LENGTH = 'inference-header-content-length'
"""The header with the number of bytes of the JSON."""


class Wanted(NamedTuple):
  """An output that is asked for.

  Attributes:
    name: its name.
    place: its place in the scores.
    binary: whether it is wanted as bytes.
  """

  name: str
  place: int
  binary: bool


class Asked(NamedTuple):
  """A request.

  Attributes:
    id: its name, which the answer has, too; '': none.
    tensors: its inputs.
    outputs: what it wants.
    seconds: after which the answer is of no use; None: any time.
  """

  id: str
  tensors: Mapping[str, Tensor]
  outputs: list[Wanted]
  seconds: float | None


def read_json(body: bytes | memoryview) -> dict[str, Any]:
  """The JSON object of a body; empty for an empty body.

  Raises:
    RefusedError: it is none.
  """
  if not len(body):
    return {}
  try:
    found = json.loads(bytes(body))
  except (ValueError, RecursionError) as error:
    raise invalid(f'the body is no JSON: {shorten(str(error), 200)}') from None
  if not isinstance(found, dict):
    raise invalid('the body is not a JSON object')
  return found


def field(holder: Mapping[str, Any], name: str, kind: type) -> Any:
  """A field of a JSON object; an empty one where it is missing.

  Raises:
    RefusedError: it is of another type.
  """
  value = holder.get(name)
  if value is None:
    return kind()
  if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
    raise invalid(f'{name} is {shorten(value)}; expected {_KINDS[kind]}')
  return value


_KINDS = {
  bool: 'true or false',
  dict: 'an object',
  int: 'a whole number',
  list: 'a list',
  str: 'a text',
}


def _objects(holder: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
  items = field(holder, name, list)
  for item in items:
    if not isinstance(item, dict):
      raise invalid(f'{name} has {shorten(item)}; expected objects')
  return items


def read_request(body: bytes, length: str | None) -> Asked:
  """A request from a body.

  Args:
    body: JSON, then bytes of tensors.
    length: the header `LENGTH`; None: all is JSON.

  Raises:
    RefusedError: it is malformed.
  """
  view = memoryview(body)
  end = len(body)
  if length is not None:
    if not re.fullmatch('[0-9]{1,18}', length) or int(length) > end:
      raise invalid(
        f'{LENGTH} is {shorten(length)}; expected at most {end:,}, the bytes '
        'of the body'
      )
    end = int(length)
  asked, rest = read_json(view[:end]), view[end:]
  tensors: dict[str, Tensor] = {}
  at = 0
  for given in _objects(asked, 'inputs'):
    name, datatype = (field(given, x, str) for x in ('name', 'datatype'))
    if name in tensors:
      raise invalid(f'there are two inputs {shorten(name)}')
    shape, parameters = field(given, 'shape', list), _parameters(given)
    if 'binary_data_size' in parameters:
      size = field(parameters, 'binary_data_size', int)
      if not 0 <= size <= len(rest) - at:
        raise invalid(
          f'input {shorten(name)}: binary_data_size is {size:,}; the body has '
          f'{len(rest) - at:,} bytes left'
        )
      part = rest[at : at + size]
      at += size
      tensors[name] = of_bytes(name, datatype, shape, part)
    else:
      tensors[name] = of_json(name, datatype, shape, given.get('data'))
  if at != len(rest):
    raise invalid(f'{len(rest) - at:,} bytes of the body are of no input')
  parameters = field(asked, 'parameters', dict)
  return Asked(
    field(asked, 'id', str),
    tensors,
    _outputs(asked, field(parameters, 'binary_data_output', bool)),
    seconds_of(parameters),
  )


def _parameters(holder: Mapping[str, Any]) -> dict[str, Any]:
  parameters = field(holder, 'parameters', dict)
  if parameters:
    check_tensor(parameters)
  return parameters


def _outputs(asked: Mapping[str, Any], binary: bool) -> list[Wanted]:
  given = _objects(asked, 'outputs')
  names, as_bytes = [], {}
  for output in given:
    own = _parameters(output)
    name = field(output, 'name', str)
    names.append(name)
    if 'binary_data' in own:
      as_bytes[name] = field(own, 'binary_data', bool)
  return [
    Wanted(name, place, as_bytes.get(name, binary))
    for name, place in places_of(names)
  ]


class Body(NamedTuple):
  """The body of an answer.

  Attributes:
    content: JSON, then bytes of tensors.
    length: number of bytes of the JSON; None: all is JSON.
  """

  content: bytes
  length: int | None


def write_answer(
  asked: Asked, model: str, version: str, scores: np.ndarray
) -> Body:
  """The body of an answer.

  Args:
    asked: the request.
    model: name of the model.
    version: number of the version that answered.
    scores: probability and logit, f32[B, T, 2].
  """
  outputs, parts = [], []
  for name, place, binary in asked.outputs:
    values = scores[..., place]
    output: dict[str, Any] = {
      'name': name,
      'datatype': 'FP32',
      'shape': list(values.shape),
    }
    if binary:
      parts.append(values.astype('<f4').tobytes())
      output['parameters'] = {'binary_data_size': len(parts[-1])}
    else:
      output['data'] = values.ravel().tolist()
    outputs.append(output)
  about = {'model_name': model, 'model_version': version, 'outputs': outputs}
  if asked.id:
    about['id'] = asked.id
  head = json.dumps(about).encode()
  if not parts:
    return Body(head, None)
  return Body(b''.join([head, *parts]), len(head))
