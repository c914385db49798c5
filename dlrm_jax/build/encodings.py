"""The encodings of a config: a word for each table, and its sizes.

What is asked for in words and ratios becomes partitions, operations and
tables with rows; what is impossible is refused here, before data is read.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping

from dlrm_jax.build.partitions import build_partition
from dlrm_jax.build.wanted import Wanted
from dlrm_jax.embedding import sizes
from dlrm_jax.embedding.encoding import Composed, Encoding, Projected
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
)
from dlrm_jax.embedding.table import Table, uniform_by_cells
from dlrm_jax.errors import InputError

_ROBE = 'robe'
_MULTI_HOT = {'combine_then_pool': False, 'pool_then_combine': True}
_MOST_PARTS = 16


def _parts(wanted: Wanted, usual: int, least: int) -> int:
  """How many partitions: as asked, or as many as is usual."""
  asked = wanted.whole('parts', 0)
  if asked and not least <= asked <= _MOST_PARTS:
    raise InputError(
      f'config.tables.parts (feature {wanted.feature}) is {asked}; expected '
      f'{least} to {_MOST_PARTS}, or 0 for {usual}'
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
  first = wanted.choose('multi_hot', _MULTI_HOT)
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
  asked = wanted.buckets
  if asked.count(0) > 1 or len(asked) < 2:
    raise InputError(
      f'buckets {asked}: expected a number for each of 2 or more partitions; '
      f'one of them may be 0, for as many as it takes'
    )
  if wanted.whole('parts', 0) not in (0, len(asked)):
    raise InputError(
      f'buckets {asked} are of {len(asked)} partitions, but parts is '
      f'{wanted.options["parts"]}; leave parts 0'
    )
  if 0 not in asked:
    return asked
  others = [m for m in asked if m]
  found = -(-wanted.ids // math.prod(others))
  if coprime:
    found = sizes.next_coprime(found, others)
  return tuple(m or found for m in asked)


def _complementary(
  wanted: Wanted, make: Callable[[int, tuple[int, ...]], Partition]
) -> Encoding:
  """Quotient-remainder or Chinese remainder: as large as the budget allows."""
  operation, coprime = _operation(wanted), make is ChineseRemainder
  if wanted.buckets:
    buckets = _given_buckets(wanted, coprime)
    return _composed(wanted, make(wanted.ids, buckets), operation)
  parts = _parts(wanted, usual=2, least=2)
  cost = _cost(wanted, operation, parts)
  least = sizes.least_budget(wanted.ids, parts, cost, coprime)
  budget = wanted.at_least(least)
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
  if parts == 1:
    operation = Add()  # of one
  cost = _cost(wanted, operation, parts)
  budget = wanted.at_least(cost((1,) * parts))
  rows = sizes.most(budget, lambda m: cost((m,) * parts))
  if parts == 1:
    # Values of a plain table with so many rows, as the reference has it.
    bound = wanted.bound * math.sqrt(wanted.ids / rows)
    wanted = wanted._replace(bound=bound)
  return _composed(wanted, Hashes(wanted.ids, (rows,) * parts), operation)


def _tensor_train(wanted: Wanted) -> Encoding:
  """Equal partitions; the largest rank up to the one that is asked for."""
  parts = _parts(wanted, usual=3, least=2)
  buckets = sizes.small_buckets(wanted.ids, parts)

  def cost(rank: int) -> int:
    return _cost(wanted, TensorTrain(rank), parts)(buckets)

  most = wanted.whole('rank', 1)
  rank = min(sizes.most(wanted.at_least(cost(1)), cost), most)
  if cost(rank) >= wanted.ids * wanted.dim:
    return wanted.plain
  partition = QuotientRemainder(wanted.ids, buckets)
  return _composed(wanted, partition, TensorTrain(rank))


def _user_given(wanted: Wanted) -> Encoding:
  """Partitions from a file, or from a function of the user's."""
  source = str(wanted.options['partitions'])
  partition = build_partition(source, wanted.ids)
  return _composed(wanted, partition, _operation(wanted))


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
  # Settled before: `build_auto`.
  'auto': None,
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
  if dim % count:
    raise InputError(
      f'width {dim} (config.model.dim) can not be cut into {count} equal '
      f'parts; change config.tables.parts'
    )
  width = Concat().widths(dim, count)[0]
  rows = max(sum(w.budget for w in wanted) // width, 1)
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
      f'config.tables.alpha is {" and ".join(sorted(map(str, alphas)))}; '
      f'expected one number from 0 for all features with mixed_dims'
    )
  alpha = float(alphas.pop())
  if not alpha:
    least, plain = sizes.least_mixed(rows, dim), sum(rows) * dim
    if least >= plain:
      raise InputError(
        f'tables of {", ".join(f"{n:,}" for n in rows)} ids: the smallest '
        f'keeps the full width, so it takes larger ones beside it; name '
        f'another encoding'
      )
    budget = sum(w.budget for w in wanted)
    if not any(w.options['rows'] for w in wanted):
      budget = max(budget, least)
    alpha = sizes.solve_alpha(rows, dim, budget)
  found: dict[str, Encoding] = {}
  for w, width in zip(
    wanted, sizes.mixed_widths(rows, dim, alpha), strict=True
  ):
    table = w.table('', w.ids, width, w.bound)
    found[w.name] = w.plain if width == dim else Projected(table, dim)
  return found


def _check(wanted: Wanted) -> None:
  """Raises where a field is wrong, or says nothing with this encoding."""
  _operation(wanted)
  wanted.choose('multi_hot', _MULTI_HOT)
  takes = ('quotient_remainder', 'chinese_remainder')
  if wanted.buckets and wanted.options['encoding'] not in takes:
    raise InputError(
      f'config.tables.buckets (feature {wanted.feature}) is '
      f'{wanted.buckets}, but the encoding is '
      f'{wanted.options["encoding"]}; {" and ".join(takes)} take buckets'
    )


@contextlib.contextmanager
def _says(where: str) -> Iterator[None]:
  """Errors say where they come from, if they don't yet."""
  try:
    yield
  except InputError as error:
    if str(error).startswith('config.'):
      raise
    raise InputError(f'{where}: {error}') from None


def _check_names(wanted: list[Wanted], found: Mapping[str, Encoding]) -> None:
  """Raises where a part of a table has the name of another one's table."""
  first: dict[str, tuple[Wanted, Table]] = {}
  for w in wanted:
    for table in found[w.name].tables:
      other, same = first.setdefault(table.name, (w, table))
      if other is not w and same is not table:
        raise InputError(
          f'config.tables.features: {other.feature} and {w.feature} would '
          f'both make a table {table.name}; name one of theirs otherwise, as '
          f"in {w.feature}={{'table': 'other'}}"
        )


def build_encodings(wanted: list[Wanted]) -> dict[str, Encoding]:
  """Encodings by table, their tables not placed yet.

  Args:
    wanted: of every table.

  Raises:
    InputError: something impossible is asked for; names field and feature.
  """
  # Those first that are not left plain in any case: their names say more.
  for w in sorted(wanted, key=lambda w: w.small):
    _check(w)
  found: dict[str, Encoding] = {}
  together: dict[str, list[Wanted]] = {'robe': [], 'mixed_dims': []}
  for w in wanted:
    if w.options['encoding'] == 'auto':
      raise InputError(
        f'config.tables.encoding (feature {w.feature}) is auto: it needs the '
        f'counts of a data set (config.data.dir)'
      )
    make = w.choose('encoding', _ENCODINGS)
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
  _check_names(wanted, found)
  return {w.name: found[w.name] for w in wanted}
