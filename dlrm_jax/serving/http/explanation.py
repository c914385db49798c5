"""Which columns of a row move its score: each is left out in turn."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.prepare.values.raw_schema import RawSchema
from dlrm_jax.serving.columns import BETWEEN
from dlrm_jax.serving.interface import Interface
from dlrm_jax.serving.refusal import invalid
from dlrm_jax.serving.service import Service
from dlrm_jax.serving.tensors import BYTES, Tensor, utf8

_MOST = 10_000  # characters of a value, which is scored once for each column


def _groups(raw: RawSchema) -> list[tuple[str, ...]]:
  """Columns that are missing together: a bag and its weights."""
  found: dict[str, tuple[str, ...]] = {}
  for source in raw.dense:
    found[source.column] = (source.column,)
  for source in raw.sparse:
    group = found.get(source.column, (source.column,))
    if source.weights and source.weights not in group:
      group += (source.weights,)
    found[source.column] = group
  return list(found.values())


def _tensor(interface: Interface, name: str, texts: list[str]) -> Tensor:
  """Texts of a column, one a row."""
  if BYTES in interface.columns[name].flat:
    data = list(map(utf8, texts))
    return Tensor(BYTES, (len(data),), data)
  bags = [text.split(BETWEEN) for text in texts]
  width = max(map(len, bags))
  data = [utf8(value) for bag in bags for value in (bag + [''] * width)[:width]]
  return Tensor(BYTES, (len(bags), width), data)


async def explain(
  service: Service, model: str, row: Mapping[str, Any]
) -> dict[str, Any]:
  """The score of a row, and how it changes with each column.

  Args:
    service: answers.
    model: name of a model.
    row: texts by column; '' is missing, as is a column that is not there.

  Returns:
    Labels, probability and logit by task, and for each column (or bag with its
    weights) the logit less that of the row without it; None for a column that
    must not be missing.

  Raises:
    RefusedError: a value is wrong, or the model is not served.
  """
  version = service.repository.find(model)
  interface = version.interface
  for name, value in row.items():
    if name not in interface.columns or not isinstance(value, str):
      raise invalid(f'{shorten(name)}: expected texts by names of columns')
    if len(value) > _MOST:
      raise invalid(f'{name}: {len(value):,} characters; at most {_MOST:,}')
  groups = _groups(interface.raw)
  left_out = [group for group in groups if version.needed.isdisjoint(group)]
  rows = [
    {name: text for name, text in row.items() if name not in group}
    for group in [(), *left_out]
  ]
  parts, most = [], version.engine.limits.max_batch
  for start in range(0, len(rows), most):
    part = rows[start : start + most]
    tensors = {
      name: _tensor(interface, name, [one.get(name, '') for one in part])
      for name in interface.columns
    }
    scored = await service.infer(model, version.number, tensors)
    parts.append(scored.answer.scores)
  scores = np.concatenate(parts)
  probability, logit = scores[0].T.tolist()
  changes = {
    group: (scores[0, :, 1] - other[:, 1]).tolist()
    for group, other in zip(left_out, scores[1:], strict=True)
  }
  return {
    'labels': list(interface.schema.labels),
    'probability': probability,
    'logit': logit,
    'columns': [
      {
        'names': list(group),
        'values': [row[name] for name in group if row.get(name)],
        'change': changes.get(group),
      }
      for group in groups
    ],
  }
