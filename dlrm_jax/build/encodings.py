"""The encodings of a config: a word for each table, turned into tables.

Requests that are impossible are refused here, before data is read. The
encodings themselves are in `composed_encodings` (of one table each) and
`joint_encodings` (of several tables together).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from dlrm_jax.build import composed_encodings, joint_encodings
from dlrm_jax.build.wanted import Wanted
from dlrm_jax.embedding.encoding import Encoding
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError

_SINGLE: dict[str, Callable[[Wanted], Encoding]] = {
  'plain': lambda wanted: wanted.plain,
  'hashed': composed_encodings.hashed,
  'quotient_remainder': composed_encodings.quotient_remainder,
  'chinese_remainder': composed_encodings.chinese_remainder,
  'partitions': composed_encodings.user_partitions,
  'tensor_train': composed_encodings.tensor_train,
}
"""Encodings of one table."""

_JOINT: dict[str, Callable[[list[Wanted]], dict[str, Encoding]]] = {
  'robe': joint_encodings.robe,
  'mixed_dims': joint_encodings.mixed_dims,
}
"""Encodings of several tables together."""

# `build.auto` replaces auto by other encodings before this file is used.
_WORDS = {word: word for word in (*_SINGLE, *_JOINT, 'auto')}


def _check(wanted: Wanted) -> None:
  """Raises where a field is wrong, or has no effect under the encoding."""
  composed_encodings.operation_of(wanted)
  composed_encodings.sums_first(wanted)
  readers = ('quotient_remainder', 'chinese_remainder')
  if wanted.buckets and wanted.options['encoding'] not in readers:
    raise InputError(
      f'config.tables.buckets (feature {wanted.feature}) is '
      f'{wanted.buckets}, but the encoding is '
      f'{wanted.options["encoding"]}; {" and ".join(readers)} take buckets'
    )


@contextlib.contextmanager
def _errors_name(where: str) -> Iterator[None]:
  """Context that puts `where` before errors that do not name a field."""
  try:
    yield
  except InputError as error:
    if str(error).startswith('config.'):
      raise
    raise InputError(f'{where}: {error}') from None


def _check_names(
  wanted: list[Wanted], encodings: Mapping[str, Encoding]
) -> None:
  """Raises where two encodings have different tables of one name."""
  first: dict[str, tuple[Wanted, Table]] = {}
  for w in wanted:
    for table in encodings[w.name].tables:
      other, same = first.setdefault(table.name, (w, table))
      if other is not w and same is not table:
        raise InputError(
          f'config.tables.features: {other.feature} and {w.feature} would '
          f'both make a table {table.name}; name one of theirs otherwise, as '
          f"in {w.feature}={{'table': 'other'}}"
        )


def build_encodings(
  by_role: Mapping[str, list[Wanted]],
) -> dict[str, Encoding]:
  """The encoding of every table, by its name; tables are not placed yet.

  Args:
    by_role: the requests for the tables of each role.

  Raises:
    InputError: a request is impossible; names the field and the feature.
  """
  encodings: dict[str, Encoding] = {}
  for wanted in by_role.values():
    encodings |= _of_role(wanted)
  _check_names([w for of_role in by_role.values() for w in of_role], encodings)
  return encodings


def _of_role(wanted: list[Wanted]) -> dict[str, Encoding]:
  # Tables that stay plain last: errors should name the features of others.
  for w in sorted(wanted, key=lambda w: w.small):
    _check(w)
  encodings: dict[str, Encoding] = {}
  joint: dict[str, list[Wanted]] = {word: [] for word in _JOINT}
  for w in wanted:
    word = w.choose('encoding', _WORDS)
    if word == 'auto':
      raise InputError(
        f'config.tables.encoding (feature {w.feature}) is auto: it needs the '
        f'counts of a data set (config.data.dir)'
      )
    if w.small:
      encodings[w.name] = w.plain
    elif word in _JOINT:
      joint[word].append(w)
    else:
      with _errors_name(f'config.tables, feature {w.feature}, encoding {word}'):
        encodings[w.name] = _SINGLE[word](w)
  for word, group in joint.items():
    if group:
      with _errors_name(f'config.tables, encoding {word}'):
        encodings |= _JOINT[word](group)
  return {w.name: encodings[w.name] for w in wanted}
