"""Encodings of one table each: hashes, remainders, partitions, tensor trains.

Each function turns the fields of a table (`Wanted`) into partitions,
operations and tables with rows.
"""

import math
from collections.abc import Callable

from dlrm_jax.build.partitions import build_partition
from dlrm_jax.build.wanted import Wanted
from dlrm_jax.embedding import sizes
from dlrm_jax.embedding.encoding import Composed, Encoding
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
from dlrm_jax.embedding.table import uniform_by_cells
from dlrm_jax.errors import InputError

_SUMS_FIRST = {'combine_then_pool': False, 'pool_then_combine': True}


def operation_of(wanted: Wanted) -> Operation:
  """The operation that `combine` names."""
  choices: dict[str, Callable[[], Operation]] = {
    'mult': Mult,
    'add': Add,
    'concat': Concat,
    'path': lambda: PathBased(wanted.whole('hidden', 1)),
  }
  return wanted.choose('combine', choices)()


def sums_first(wanted: Wanted) -> bool:
  """Whether `multi_hot` asks to pool the rows of a bag before combining."""
  return wanted.choose('multi_hot', _SUMS_FIRST)


def _composed(
  wanted: Wanted, partition: Partition, operation: Operation
) -> Composed:
  """One table for each part of a partition, combined by the operation."""
  dim, buckets = wanted.dim, partition.buckets
  first = sums_first(wanted)
  if first and not (operation.linear or isinstance(operation, Mult)):
    raise InputError(
      f'config.tables.multi_hot (feature {wanted.feature}) is '
      f"'pool_then_combine'; the vector of each id is needed: expected "
      f"'combine_then_pool', or an encoding that combines by mult, add, concat"
    )
  widths = operation.widths(dim, len(buckets))
  bounds = operation.bounds(wanted.bound, dim, len(buckets))
  tables = tuple(
    wanted.table(str(j) if len(widths) > 1 else '', rows, width, bound)
    for j, (rows, width, bound) in enumerate(
      zip(buckets, widths, bounds, strict=False), 1
    )
  )
  return Composed(tables, partition, operation, dim, first)


def _cost(
  wanted: Wanted, operation: Operation, parts: int
) -> Callable[[tuple[int, ...]], int]:
  """The number of parameters as a function of the numbers of buckets."""
  widths = operation.widths(wanted.dim, parts)

  def cost(buckets: tuple[int, ...]) -> int:
    tables = sum(m * d for m, d in zip(buckets, widths, strict=False))
    return tables + operation.layers(wanted.dim, buckets[len(widths) :])

  return cost


def _given_buckets(wanted: Wanted, coprime: bool) -> tuple[int, ...]:
  """The numbers of `buckets`, with a 0 replaced by the least that suffices."""
  buckets = wanted.buckets
  if buckets.count(0) > 1 or len(buckets) < 2:
    raise InputError(
      f'buckets {buckets}: expected a number for each of 2 or more partitions; '
      f'one of them may be 0, for as many as are needed'
    )
  if wanted.whole('parts', 0) not in (0, len(buckets)):
    raise InputError(
      f'buckets {buckets} are of {len(buckets)} partitions, but parts is '
      f'{wanted.options["parts"]}; leave parts 0'
    )
  others = [m for m in buckets if m]
  if len(others) == len(buckets):
    return buckets
  least = -(-wanted.ids // math.prod(others))
  if coprime:
    least = sizes.next_coprime(least, others)
  return tuple(m or least for m in buckets)


def _complementary(
  wanted: Wanted,
  new_partition: Callable[[int, tuple[int, ...]], Partition],
  coprime: bool,
) -> Encoding:
  """Complementary partitions, as large as the budget allows."""
  operation = operation_of(wanted)
  if wanted.buckets:
    buckets = _given_buckets(wanted, coprime)
    return _composed(wanted, new_partition(wanted.ids, buckets), operation)
  parts = wanted.parts(usual=2, least=2)
  cost = _cost(wanted, operation, parts)
  least = sizes.least_budget(wanted.ids, parts, cost, coprime)
  budget = wanted.at_least(least)
  if budget >= wanted.ids * wanted.dim:
    return wanted.plain
  buckets = sizes.large_and_small(wanted.ids, parts, budget, cost, coprime)
  return _composed(wanted, new_partition(wanted.ids, buckets), operation)


def quotient_remainder(wanted: Wanted) -> Encoding:
  """The digits of the id as buckets."""
  return _complementary(wanted, QuotientRemainder, coprime=False)


def chinese_remainder(wanted: Wanted) -> Encoding:
  """The remainders of the id by coprime numbers as buckets."""
  return _complementary(wanted, ChineseRemainder, coprime=True)


def hashed(wanted: Wanted) -> Encoding:
  """One or several hashes, with an equal number of rows for each."""
  parts, operation = wanted.parts(usual=1, least=1), operation_of(wanted)
  if isinstance(operation, PathBased):
    raise InputError(
      "a path needs complementary partitions; with 'hashed' combine by mult, "
      'add or concat'
    )
  if wanted.budget >= wanted.ids * wanted.dim:
    return wanted.plain
  if parts == 1:
    operation = Add()  # of a single vector: the vector itself
  cost = _cost(wanted, operation, parts)
  budget = wanted.at_least(cost((1,) * parts))
  rows = sizes.most(budget, lambda m: cost((m,) * parts))
  if parts == 1 and wanted.init is uniform_by_cells:
    # Initial values of a plain table with `rows` rows, as in the reference.
    bound = wanted.bound * math.sqrt(wanted.ids / rows)
    wanted = wanted._replace(bound=bound)
  return _composed(wanted, Hashes(wanted.ids, (rows,) * parts), operation)


def tensor_train(wanted: Wanted) -> Encoding:
  """Cores with equal numbers of rows; the largest rank within the budget."""
  parts = wanted.parts(usual=3, least=2)
  buckets = sizes.small_buckets(wanted.ids, parts)

  def cost(rank: int) -> int:
    return _cost(wanted, TensorTrain(rank), parts)(buckets)

  most = wanted.whole('rank', 1)
  rank = min(sizes.most(wanted.at_least(cost(1)), cost), most)
  if cost(rank) >= wanted.ids * wanted.dim:
    return wanted.plain
  partition = QuotientRemainder(wanted.ids, buckets)
  return _composed(wanted, partition, TensorTrain(rank))


def user_partitions(wanted: Wanted) -> Encoding:
  """Partitions from the user's file or function."""
  source = str(wanted.options['partitions'])
  partition = build_partition(source, wanted.ids)
  return _composed(wanted, partition, operation_of(wanted))
