"""Finds, prepares and opens data sets of TFDS, without TensorFlow."""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.errors import InputError

_INPUT = re.compile(
  r'(?P<name>[^:]+(?::(?:[0-9*]+\.){2}[0-9*]+)?)(?::(?P<split>.+))?'
)
_FORMAT = 'array_record'


class TfdsSplit(NamedTuple):
  """A split of a data set.

  Attributes:
    name: name of the data set.
    records: the serialised examples.
    types: types of the features that can be columns, by name.
  """

  name: str
  records: Any
  types: Mapping[str, pl.DataType]

  def read(self, start: int, stop: int) -> Sequence[bytes]:
    """Serialised examples start ... stop - 1.

    Raises:
      InputError: a file is damaged.
    """
    try:
      return self.records.__getitems__(range(start, stop))
    except Exception as error:
      raise InputError(
        f'{self.name}, rows {start + 1:,} ... {stop:,}: damaged '
        f'({_why(error)}); prepare it again with TFDS'
      ) from error


def parse_input(named: str) -> tuple[str, str | None]:
  """NAME[/CONFIG][:VERSION][:SPLIT] -> name with version, and split."""
  parts = _INPUT.fullmatch(named)
  if not parts:
    raise InputError(
      f'--input={named}: expected NAME[/CONFIG][:VERSION][:SPLIT] of a TFDS '
      'data set, such as movielens/100k-ratings:train'
    )
  return parts['name'], parts['split']


def _why(error: Exception) -> str:
  """The first line of an error of TFDS, which may have pages."""
  line = (str(error).strip().splitlines() or [''])[0][:200].rstrip('.')
  return f'{type(error).__name__}: {line}' if line else type(error).__name__


def _builder(name: str, folder: str | None) -> Any:
  """The builder of a data set, which it prepares if necessary."""
  import tensorflow_datasets as tfds

  where = folder or '~/tensorflow_datasets'
  try:
    builder = tfds.builder(name, data_dir=folder)
  except Exception as error:  # The code of a data set may raise anything.
    raise InputError(
      f'{name}: TFDS finds no such data set, prepared in {where} or among '
      f'those it can prepare ({_why(error)})'
    ) from error
  if builder.info.splits:
    return builder
  tfds.disable_progress_bar()
  try:
    builder = tfds.builder(name, data_dir=folder, file_format=_FORMAT)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints much.
      builder.download_and_prepare()
  except Exception as error:
    raise InputError(
      f'{name} is not in {where}, and TFDS cannot prepare it here, without '
      f'TensorFlow ({_why(error)}); expected it there: prepare it elsewhere '
      f"with file_format='{_FORMAT}', and set data_dir"
    ) from error
  return builder


def open_split(name: str, split: str | None, folder: str | None) -> TfdsSplit:
  """Opens a split of a data set.

  Args:
    name: name of the data set.
    split: in TFDS's notation, such as 'train' or 'train[:10%]'; None: the only
      split of the data set.
    folder: folder of the prepared data sets; None: TFDS's default.

  Raises:
    InputError: there is no such data set or split, or it cannot be read.
  """
  import tensorflow_datasets as tfds

  builder = _builder(name, folder)
  splits = list(builder.info.splits)
  if not split and len(splits) != 1:
    raise InputError(
      f'{name} has the splits {", ".join(splits)}; name one, as in '
      f'{name}:{splits[0]}'
    )
  formats = {known.value for known in builder.info.available_file_formats()}
  if _FORMAT not in formats:
    raise InputError(
      f'{name} is prepared as {", ".join(sorted(formats))}; expected '
      f"{_FORMAT}: prepare it with file_format='{_FORMAT}' in another data_dir"
    )
  try:
    records = builder.as_data_source(
      split or splits[0],
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      file_format=_FORMAT,
    )
    rows = len(records)
  except Exception as error:
    raise InputError(
      f'{name}: split {split!r} cannot be opened ({_why(error)}); expected '
      f'of {", ".join(splits)}, and whole files in {builder.data_dir}'
    ) from error
  if not rows:
    raise InputError(f'{name}: split {split or splits[0]} has no examples')
  return TfdsSplit(name, records, _types(builder.info.features))


def _types(features: Any) -> dict[str, pl.DataType]:
  """Types of the features that are numbers, text, or lists of these.

  Features that TFDS encodes, such as images, are left out.
  """
  from tensorflow_datasets.core.utils import flatten_nest_dict

  seen = flatten_nest_dict(features.get_tensor_info())
  stored = flatten_nest_dict(features.get_serialized_info())
  types: dict[str, pl.DataType] = {}
  for name, info in seen.items():
    if info != stored.get(name) or info.dataset_lvl or len(info.shape) > 1:
      continue
    kind = np.dtype(info.np_dtype).kind
    value = pl.Int64() if kind in 'iub' else pl.Float32()
    value = pl.String() if kind == 'O' else value
    types[name] = pl.List(value) if info.shape else value
  return types
