"""A client of a server, for rows of raw values."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import tritonclient.grpc as triton

from dlrm_jax.errors import InputError
from dlrm_jax.scoring.frames import frame_of_rows
from dlrm_jax.serving.tensors import BYTES, DTYPES

_INTEGERS = (
  *(pl.Int8, pl.Int16, pl.Int32, pl.Int64),
  *(pl.UInt8, pl.UInt16, pl.UInt32),
)
"""Types whose values INT64 holds."""


class Client:
  """Scores rows of raw values with a model of a server, over gRPC.

  with Client('127.0.0.1:8001') as client:
    client.predict({'user': [17], 'item': ['b12'], ...})
  """

  def __init__(
    self,
    url: str,
    model: str = '',
    *,
    token: str = '',
    tls: str = '',
    timeout: float = 60.0,
  ) -> None:
    """Connects to a server.

    Args:
      url: its host and port of gRPC.
      model: name of the model; '': the only one.
      token: what the server asks for; '': nothing.
      tls: file of the certificate to trust, in PEM; '': it speaks plainly.
      timeout: seconds that an answer may take.

    Raises:
      InputError: the server has several models, or none; or the certificate
        is not there; or the timeout is none.
      tritonclient.utils.InferenceServerException: no server answers there.
    """
    if tls and not Path(tls).is_file():
      raise InputError(f'tls={tls}: there is no such file')
    if not 0 < timeout < math.inf:
      raise InputError(f'timeout={timeout}: expected seconds above 0')
    headers = {'authorization': f'Bearer {token}'} if token else None
    self._options = {'headers': headers, 'client_timeout': timeout}
    self._client = triton.InferenceServerClient(
      url, ssl=bool(tls), root_certificates=str(Path(tls)) if tls else None
    )
    try:
      self._model = model or self._only_model()
      self._learn()
    except BaseException:
      self.close()
      raise

  def close(self) -> None:
    """Ends the connection."""
    self._client.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _learn(self) -> None:
    """Asks what the model takes and gives."""
    options = self._options | {'as_json': True}
    found = self._client.get_model_config(self._model, **options)['config']
    about = self._client.get_model_metadata(self._model, **options)
    self._most = found['max_batch_size']
    parameters = found['parameters']
    names, labels = (
      json.loads(parameters[name]['string_value'])
      for name in ('column_inputs', 'labels')
    )
    inputs = {x['name']: x for x in about['inputs']}
    self._columns = {name: inputs[name] for name in names}
    self._tasks = len(labels)

  def _only_model(self) -> str:
    index = self._client.get_model_repository_index(
      **self._options, as_json=True
    )
    names = {model['name'] for model in index.get('models', ())}
    if len(names) != 1:
      raise InputError(
        f'the server has {len(names)} models; expected model=NAME, one of '
        f'{", ".join(sorted(names))}'
      )
    return names.pop()

  def predict(self, rows: Any) -> np.ndarray:
    """Probabilities of rows; f32[B], or f32[B, T] with T > 1 tasks.

    Args:
      rows: a dict of arrays or lists by name of the column, or a frame of
        Polars or pandas, as `dlrm_jax.load(...).predict` takes them.

    Raises:
      InputError: a column is missing, or is none, or the rows are a path.
      tritonclient.utils.InferenceServerException: the server says why not.
    """
    if isinstance(rows, str | Path):
      raise InputError(
        f'rows={str(rows)!r}: expected a dict or a frame; read the file with '
        'Polars or pandas, or let dlrm_jax.predict score it'
      )
    frame = frame_of_rows(rows, tuple(self._columns))
    for name in self._columns:
      if name not in frame.columns:
        raise InputError(f'there is no column {name!r} in the rows')
    parts = [
      self._scored(frame[start : start + self._most])
      for start in range(0, frame.height, self._most)
    ]
    empty = np.empty((0, self._tasks), np.float32)
    scores = np.concatenate([empty, *parts])
    return scores[:, 0] if scores.shape[1] == 1 else scores

  def _scored(self, frame: pl.DataFrame) -> np.ndarray:
    tensors = []
    for name, about in self._columns.items():
      array, datatype = _array(frame[name], about)
      tensors.append(triton.InferInput(name, array.shape, datatype))
      tensors[-1].set_data_from_numpy(array)
    found = self._client.infer(self._model, tensors, **self._options)
    return found.as_numpy('probability')


def _array(
  column: pl.Series, about: Mapping[str, Any]
) -> tuple[np.ndarray, str]:
  """A column as an array with a row for each of its values, and its type.

  Numbers that are missing, or that the type cannot hold, go as texts.

  Args:
    column: the values.
    about: datatype and shape of the input, as the metadata have them.
  """
  if isinstance(column.dtype, pl.List | pl.Array):
    bags = column.to_list()
    width = max([1, *(len(bag) for bag in bags if bag)])
    texts = [[*map(_text, bag or ()), *[b''] * width][:width] for bag in bags]
    return np.array(texts, np.object_), BYTES
  if int(about['shape'][1]) < 0:  # texts that may be whole bags
    return np.array([_text(value) for value in column], np.object_), BYTES
  datatype = about['datatype']
  if datatype != BYTES and not column.null_count():
    if datatype == 'FP32' and column.dtype.is_numeric():
      return column.cast(pl.Float64).to_numpy()[:, None], 'FP64'
    if column.dtype in _INTEGERS:
      return column.to_numpy()[:, None].astype(DTYPES[datatype]), datatype
  texts = [_text(value) for value in column]
  return np.array(texts, np.object_)[:, None], BYTES


def _text(value: Any) -> bytes:
  """A value as a log has it; nothing for None and NaN."""
  missing = value is None or value != value
  return b'' if missing else str(value).encode()
