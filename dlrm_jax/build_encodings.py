"""The encodings of a config: a word for each table, and its sizes.

What is asked for in words and ratios becomes partitions, operations and
tables with rows; what is impossible is refused here, before data is read.
"""

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from dlrm_jax.embedding import sizes
from dlrm_jax.embedding.encoding import Composed, Encoding, Plain, Projected
from dlrm_jax.embedding.operations import (
  Add,
  Concat,
  Mult,
  Operation,
  PathBased,
  TensorTrain,
)
from dlrm_jax.embedding.partitions import (
  ChineseRemainder,
  Hashes,
  Partition,
  QuotientRemainder,
  given,
)
from dlrm_jax.embedding.table import Table, uniform_by_cells
from dlrm_jax.errors import InputError
from dlrm_jax.fields import choose_one, whole

FIELDS = (
  'encoding',
  'combine',
  'compression',
  'rows',
  'parts',
  'buckets',
  'threshold',
  'hidden',
  'rank',
  'alpha',
  'partitions',
  'multi_hot',
)
"""Fields of config.tables, and of each feature, that are read here."""

_ROBE = 'robe'


class Wanted(NamedTuple):
  """What is asked for of a table.

  Attributes:
    name: of the table.
    feature: one that reads it, for messages.
    ids: n.
    dim: D.
    bound: of the plain table's first values.
    options: the fields.
  """

  name: str
  feature: str
  ids: int
  dim: int
  bound: float
  options: Mapping[str, Any]

  def whole(self, field: str, least: int) -> int:
    """A field that is a whole number."""
    where = f'tables.{field} (feature {self.feature})'
    return whole(where, self.options[field], least)

  def choose(self, field: str, choices: Mapping[str, Any]) -> Any:
    """What the word of a field stands for."""
    where = f'tables.{field} (feature {self.feature})'
    return choose_one(where, self.options[field], choices)

  @property
  def plain(self) -> Plain:
    """A row an id."""
    return Plain(self.table('', self.ids, self.dim, self.bound))

  @property
  def small(self) -> bool:
    """Whether it is left plain in any case."""
    return self.ids <= self.whole('threshold', 0)

  @property
  def budget(self) -> int:
    """Parameters that are asked for."""
    rows = self.whole('rows', 0)
    if rows:
      return rows * self.dim
    ratio = self.options['compression']
    if not isinstance(ratio, int | float) or not 1 <= ratio < 2**31:
      raise InputError(
        f'config.tables.compression (feature {self.feature}) is {ratio!r}; '
        f'expected how many times fewer parameters, 1 or more'
      )
    return int(self.ids * self.dim / ratio)

  def table(self, part: str, rows: int, dim: int, bound: float) -> Table:
    """A table for a part of the encoding."""
    name = f'{self.name}.{part}' if part else self.name
    return Table(name, rows, dim, uniform_by_cells, bound=bound)


def _parts(wanted: Wanted, usual: int, least: int) -> int:
  """How many partitions: as asked, or as many as is usual."""
  asked = wanted.whole('parts', 0)
  if asked and asked < least:
    raise InputError(
      f'config.tables.parts (feature {wanted.feature}) is {asked}; expected '
      f'{least} or more, or 0 for {usual}'
    )
  return asked or usual


def _operation(wanted: Wanted) -> Operation:
  choices: dict[str, Callable[[], Operation]] = {
    'mult': Mult,
    'add': Add,
    'concat': Concat,
    'path': lambda: PathBased(wanted.whole('hidden', 1)),
  }
  return wanted.choose('combine', choices)()


def _composed(
  wanted: Wanted, partition: Partition, operation: Operation
) -> Composed:
  """Tables of a partition's buckets, whose rows the operation combines."""
  dim, buckets = wanted.dim, partition.buckets
  widths = operation.widths(dim, len(buckets))
  bounds = operation.bounds(wanted.bound, dim, len(buckets))
  tables = tuple(
    wanted.table(str(j) if len(widths) > 1 else '', rows, width, bound)
    for j, (rows, width, bound) in enumerate(
      zip(buckets, widths, bounds, strict=False), 1
    )
  )
  first = _sums_first(wanted, operation)
  return Composed(tables, partition, operation, dim, first)


def _sums_first(wanted: Wanted, operation: Operation) -> bool:
  words = {'combine_then_pool': False, 'pool_then_combine': True}
  first = wanted.choose('multi_hot', words)
  if first and not (operation.linear or isinstance(operation, Mult)):
    raise InputError(
      f'config.tables.multi_hot (feature {wanted.feature}) is '
      f"'pool_then_combine'; the vector of each id is needed: expected "
      f"'combine_then_pool', or an encoding that combines by mult, add, concat"
    )
  return first


def _cost(
  wanted: Wanted, operation: Operation, parts: int
) -> Callable[[tuple[int, ...]], int]:
  """Parameters for numbers of buckets."""
  widths = operation.widths(wanted.dim, parts)

  def cost(buckets: tuple[int, ...]) -> int:
    tables = sum(m * d for m, d in zip(buckets, widths, strict=False))
    return tables + operation.layers(wanted.dim, buckets[len(widths) :])

  return cost


def _given_buckets(wanted: Wanted, coprime: bool) -> tuple[int, ...]:
  """Numbers of buckets as asked; one may be 0: as many as it takes."""
  asked = tuple(wanted.options['buckets'])
  if not all(isinstance(m, int) and m >= 0 for m in asked):
    raise InputError(
      f'buckets {asked}: expected whole numbers; one of them may be 0, for as '
      f'many as it takes'
    )
  if asked.count(0) > 1 or len(asked) < 2:
    raise InputError(
      f'buckets {asked}: expected a number for each of 2 or more partitions; '
      f'one of them may be 0, for as many as it takes'
    )
  if 0 not in asked:
    return asked
  others = [m for m in asked if m]
  found = -(-wanted.ids // math.prod(others))
  while coprime and any(math.gcd(found, m) > 1 for m in others):
    found += 1
  return tuple(m or found for m in asked)


def _complementary(
  wanted: Wanted, make: Callable[[int, tuple[int, ...]], Partition]
) -> Encoding:
  """Quotient-remainder or Chinese remainder: as large as the budget allows."""
  operation, coprime = _operation(wanted), make is ChineseRemainder
  if wanted.options['buckets']:
    buckets = _given_buckets(wanted, coprime)
    return _composed(wanted, make(wanted.ids, buckets), operation)
  parts = _parts(wanted, usual=2, least=2)
  cost, budget = _cost(wanted, operation, parts), wanted.budget
  if not wanted.options['rows']:
    least = sizes.least_budget(wanted.ids, parts, cost, coprime)
    budget = max(budget, least)
  if budget >= wanted.ids * wanted.dim:
    return wanted.plain
  buckets = sizes.large_and_small(wanted.ids, parts, budget, cost, coprime)
  return _composed(wanted, make(wanted.ids, buckets), operation)


def _hashed(wanted: Wanted) -> Encoding:
  """Several hashes, an equal part of the rows for each."""
  parts, operation = _parts(wanted, usual=1, least=1), _operation(wanted)
  if isinstance(operation, PathBased):
    raise InputError(
      "a path needs complementary partitions; with 'hashed' combine by mult, "
      'add or concat'
    )
  if wanted.budget >= wanted.ids * wanted.dim:
    return wanted.plain
  cost = _cost(wanted, operation, parts)
  rows = sizes.most(wanted.budget, lambda m: cost((m,) * parts))
  return _composed(wanted, Hashes(wanted.ids, (rows,) * parts), operation)


def _tensor_train(wanted: Wanted) -> Encoding:
  """Equal partitions; the largest rank up to the one that is asked for."""
  parts = _parts(wanted, usual=3, least=2)
  buckets = sizes.small_buckets(wanted.ids, parts)

  def cost(rank: int) -> int:
    return _cost(wanted, TensorTrain(rank), parts)(buckets)

  most, budget = wanted.whole('rank', 1), wanted.budget
  if not wanted.options['rows']:
    budget = max(budget, cost(1))
  rank = min(sizes.most(budget, cost), most)
  if cost(rank) >= wanted.ids * wanted.dim:
    return wanted.plain
  partition = QuotientRemainder(wanted.ids, buckets)
  return _composed(wanted, partition, TensorTrain(rank))


def _user_given(wanted: Wanted) -> Encoding:
  """Partitions from a file, or from a function of the user's."""
  function = _function(str(wanted.options['partitions']), wanted.ids)
  try:
    partition = given(wanted.ids, function)
  except (TypeError, ValueError, IndexError, AttributeError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(
      f'partitions {wanted.options["partitions"]!r}: {error}; expected ids '
      f'i32[...] -> a tuple of bucket numbers i32[...]'
    ) from None
  return _composed(wanted, partition, _operation(wanted))


def _function(
  source: str, ids: int
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
  """What `MODULE:FUNCTION`, or a file with a line an id, says."""
  if Path(source).suffix in ('.csv', '.npy'):
    return _from_file(Path(source), ids)
  module, _, name = source.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise InputError(
      f'partitions {source!r}: {error}; expected MODULE:FUNCTION, or a .csv '
      f'or .npy file with the buckets of an id a line'
    ) from None


def _from_file(
  path: Path, ids: int
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
  try:
    found = (
      np.load(path)
      if path.suffix == '.npy'
      else pl.read_csv(path, has_header=False).to_numpy()
    )
  except (OSError, EOFError, ValueError, pl.exceptions.PolarsError) as error:
    why = str(error).splitlines()[0]
    raise InputError(f'partitions {path}: {why}') from None
  if found.ndim != 2 or len(found) < ids:
    raise InputError(
      f'partitions {path}: shape {found.shape}; expected a line for each of '
      f'the {ids:,} ids'
    )
  if not np.issubdtype(found.dtype, np.integer):
    raise InputError(f'partitions {path}: {found.dtype}; expected integers')
  columns = found[:ids].T.astype(np.int32)
  return lambda ids: tuple(jnp.asarray(column)[ids] for column in columns)


_ENCODINGS: dict[str, Callable[[Wanted], Encoding] | None] = {
  'plain': lambda wanted: wanted.plain,
  'hashed': _hashed,
  'quotient_remainder': functools.partial(
    _complementary, make=QuotientRemainder
  ),
  'chinese_remainder': functools.partial(_complementary, make=ChineseRemainder),
  'partitions': _user_given,
  'tensor_train': _tensor_train,
  # These are for several tables together.
  'robe': None,
  'mixed_dims': None,
}


def _robe(wanted: list[Wanted]) -> dict[str, Encoding]:
  """One array for all: each id's pieces are hashed into it."""
  parts = {_parts(w, usual=2, least=1) for w in wanted}
  if len(parts) > 1:
    raise InputError(
      f'config.tables.parts: {sorted(parts)} for robe; all features share one '
      f'array, so expected one number'
    )
  count, dim = parts.pop(), wanted[0].dim
  width = Concat().widths(dim, count)[0]
  rows = sum(w.budget for w in wanted) // width
  if rows < 1:
    raise InputError(
      f'robe: a budget of {rows * width} parameters is too small for pieces of '
      f'{width}; ask for less compression, or more rows'
    )
  bound = math.sqrt(sum(w.bound**2 * w.ids for w in wanted))
  bound /= math.sqrt(sum(w.ids for w in wanted))
  array = Table(_ROBE, rows, width, uniform_by_cells, bound=bound)
  return {
    w.name: Composed(
      (array,) * count, Hashes(w.ids, (rows,) * count, salt), Concat(), dim
    )
    for salt, w in enumerate(wanted, 1)
  }


def _mixed(wanted: list[Wanted]) -> dict[str, Encoding]:
  """Narrower rows for larger tables, by a power law."""
  rows, dim = [w.ids for w in wanted], wanted[0].dim
  alphas = {w.options['alpha'] for w in wanted}
  if len(alphas) > 1 or not all(
    isinstance(a, int | float) and 0 <= a < 100 for a in alphas
  ):
    raise InputError(
      f'config.tables.alpha is {sorted(map(str, alphas))}; expected one number '
      f'from 0 for all features with mixed_dims'
    )
  alpha = float(alphas.pop())
  if not alpha:
    budget = sum(w.budget for w in wanted)
    if not any(w.options['rows'] for w in wanted):
      budget = max(budget, sizes.least_mixed(rows, dim))
    alpha = sizes.solve_alpha(rows, dim, budget)
  found: dict[str, Encoding] = {}
  for w, width in zip(
    wanted, sizes.mixed_widths(rows, dim, alpha), strict=True
  ):
    table = w.table('', w.ids, width, w.bound)
    found[w.name] = w.plain if width == dim else Projected(table, dim)
  return found


def build_encodings(wanted: list[Wanted]) -> dict[str, Encoding]:
  """Encodings by table, their tables not placed yet.

  Args:
    wanted: of every table.

  Raises:
    InputError: something impossible is asked for; names field and feature.
  """
  found: dict[str, Encoding] = {}
  together: dict[str, list[Wanted]] = {'robe': [], 'mixed_dims': []}
  for w in wanted:
    if w.options['encoding'] == 'auto':
      raise InputError(
        f'config.tables.encoding (feature {w.feature}) is auto: it needs the '
        f'counts of a data set (config.data.dir)'
      )
    make, _ = w.choose('encoding', _ENCODINGS), _operation(w)
    if w.small:
      found[w.name] = w.plain
    elif make is None:
      together[w.options['encoding']].append(w)
    else:
      word = w.options['encoding']
      with _says(f'config.tables, feature {w.feature}, encoding {word}'):
        found[w.name] = make(w)
  for word, make_all in (('robe', _robe), ('mixed_dims', _mixed)):
    if together[word]:
      with _says(f'config.tables, encoding {word}'):
        found |= make_all(together[word])
  return {w.name: found[w.name] for w in wanted}


@contextlib.contextmanager
def _says(where: str) -> Iterator[None]:
  """Errors say where they come from, if they don't yet."""
  try:
    yield
  except InputError as error:
    if str(error).startswith('config.'):
      raise
    raise InputError(f'{where}: {error}') from None
