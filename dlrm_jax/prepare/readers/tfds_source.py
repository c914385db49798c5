"""Data sets of TFDS by name, without TensorFlow: found, prepared, opened."""

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


class Source(NamedTuple):
  """A split of a data set.

  Attributes:
    name: of the data set.
    records: serialised examples.
    types: of the features that a column can be made of, by name.
  """

  name: str
  records: Any
  types: Mapping[str, pl.DataType]

  def read(self, start: int, stop: int) -> Sequence[bytes]:
    """Examples in [start, stop), as they are stored.

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


def parse_input(named: str) -> tuple[str, str]:
  """NAME[/CONFIG][:VERSION][:SPLIT] -> name, and split or ''."""
  parts = _INPUT.fullmatch(named)
  if not parts:
    raise InputError(
      f'--input={named}: expected NAME[/CONFIG][:VERSION][:SPLIT] of a TFDS '
      'data set, such as movielens/100k-ratings:train'
    )
  return parts['name'], parts['split'] or ''


def _why(error: Exception) -> str:
  """An error in a line; TFDS's are pages."""
  line = (str(error).strip().splitlines() or [''])[0][:200].rstrip('.')
  return f'{type(error).__name__}: {line}' if line else type(error).__name__


def _builder(name: str, folder: str | None) -> Any:
  """The builder of a data set that is there; prepares it where it is not."""
  import tensorflow_datasets as tfds

  where = folder or '~/tensorflow_datasets'
  try:
    builder = tfds.builder(name, data_dir=folder)
  except Exception as error:  # Whatever the code of a data set raises.
    raise InputError(
      f'{name}: TFDS finds no such data set, prepared in {where} or among '
      f'those it can prepare ({_why(error)})'
    ) from error
  if builder.info.splits:
    return builder
  tfds.disable_progress_bar()
  try:
    builder = tfds.builder(name, data_dir=folder, file_format=_FORMAT)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS's chatter
      builder.download_and_prepare()
  except Exception as error:
    raise InputError(
      f'{name} is not in {where}, and TFDS can not prepare it here, without '
      f'TensorFlow ({_why(error)}); expected it there: prepare it elsewhere '
      f"with file_format='{_FORMAT}', and set data_dir"
    ) from error
  return builder


def open_source(name: str, split: str, folder: str | None) -> Source:
  """Opens a split; '' is the only one.

  Args:
    name: of the data set.
    split: as TFDS says it, such as 'train' or 'train[:10%]'.
    folder: where data sets are; None: TFDS's own.

  Raises:
    InputError: there is no such data set or split, or it can't be read.
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
      f'{name}: split {split!r} can not be opened ({_why(error)}); expected '
      f'of {", ".join(splits)}, and whole files in {builder.data_dir}'
    ) from error
  if not rows:
    raise InputError(f'{name}: split {split or splits[0]} has no examples')
  return Source(name, records, _types(builder.info.features))


def _types(features: Any) -> dict[str, pl.DataType]:
  """Numbers, text, and lists of them; not pictures, and what else is packed."""
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
