"""Every encoding, once as the program has it and once by definition."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding import operations, partitions
from dlrm_jax.embedding.encoding import Composed, Encoding, Plain, Projected
from dlrm_jax.embedding.table import Table
from tests.embedding import reference

IDS, ANY = 30, 10**9
ORDER = np.random.default_rng(0).permutation(IDS)


@dataclasses.dataclass(frozen=True)
class Case:
  """An encoding and its definition.

  Attributes:
    encoding: as the program has it.
    ids: it takes.
    rows: id -> a row of each part.
    define: parameters of layers -> (make, pull), as in `Composition`.
  """

  encoding: Encoding
  ids: int
  rows: object
  define: object

  def composition(self, params):
    make, pull = self.define(params)
    names = tuple(table.name for table in self.encoding.tables)
    first = getattr(self.encoding, 'sums_first', False)
    return reference.Composition(names, self.rows, make, pull, first)


OPERATIONS = {
  operations.Mult: (reference.mult, reference.pull_mult),
  operations.Add: (reference.add, reference.pull_add),
  operations.Concat: (reference.concat, reference.pull_concat),
}


def plain(table):
  return Case(Plain(table), table.rows, lambda i: (i,), lambda params: ADD)


ADD = OPERATIONS[operations.Add]


def composed(name, dim, placement, partition, operation, **options):
  """Tables as wide as the operation wants them, a row a bucket."""
  widths = operation.widths(dim, len(partition.buckets))
  tables = tuple(
    Table(f'{name}.{j}', rows, width, placement=placement, bound=1.0)
    for j, (rows, width) in enumerate(
      zip(partition.buckets, widths, strict=False)
    )
  )
  encoding = Composed(tables, partition, operation, dim, **options)
  split = buckets_of(partition)
  define = functools.partial(definition, encoding, split)
  ids = min(partition.ids, ANY)
  return Case(encoding, ids, lambda i: split(i)[: len(tables)], define)


def definition(encoding, split, params):
  match encoding.operation:
    case operations.TensorTrain(rank):
      factors = {8: (2, 2, 2), 12: (2, 2, 3)}[encoding.dim]
      return reference.tensor_train(rank, factors)
    case operations.PathBased(hidden):
      name = encoding.of[0].name

      def chosen(i):
        for j, choice in enumerate(split(i)[1:]):
          p = params[f'{name}_path_{j}']
          mine = slice(choice * hidden, (choice + 1) * hidden)
          yield (
            p['enter'][:, mine],
            p['enter_bias'][mine],
            p['leave'][mine],
            p['leave_bias'][choice],
          )

      return reference.path(lambda i: list(chosen(i)))
  return OPERATIONS[type(encoding.operation)]


def buckets_of(partition):
  """id -> its buckets, by definition."""
  match partition:
    case partitions.QuotientRemainder():
      return lambda i: np.unravel_index(i, partition.buckets, order='F')
    case partitions.ChineseRemainder():
      return lambda i: tuple(i % m for m in partition.buckets)
    case partitions.Given():
      return lambda i: (ORDER[i] % 4, ORDER[i] // 4)

  return functools.partial(hashes_of, partition.buckets, partition.salt)


def hashes_of(buckets, salt, i):
  """Each hash is a mix of the one before."""
  x = mixed(mixed(i) ^ mixed(salt)) if salt else mixed(i)
  found = []
  for m in buckets:
    found.append(x % m)
    x = mixed((x + 0x9E3779B9) % 2**32)
  return tuple(found)


def mixed(x):
  x = (x ^ x >> 16) * 0x7FEB352D % 2**32
  x = (x ^ x >> 15) * 0x846CA68B % 2**32
  return x ^ x >> 16


def permuted(ids):
  order = jnp.asarray(ORDER.astype(np.int32))[ids]
  return order % 4, order // 4


def projected(name, dim, placement):
  table = Table(name, IDS, dim // 2, placement=placement, bound=1.0)

  def define(params):
    return reference.projection(params[f'{name}_projection']['kernel'])

  return Case(Projected(table, dim), IDS, lambda i: (i,), define)


def robe(name, dim, placement, salt):
  """All parts, and all features of this name, read one array."""
  array = Table(name, 17, dim // 2, placement=placement, bound=1.0)
  partition = partitions.Hashes(IDS, (17, 17), salt)
  encoding = Composed((array, array), partition, operations.Concat(), dim)
  define = functools.partial(definition, encoding, None)
  return Case(encoding, IDS, buckets_of(partition), define)


def of(partition, operation, **options):
  """(where, dim, placement) -> a case."""
  return lambda where, dim, placement: composed(
    where, dim, placement, partition, operation, **options
  )


def plainly(where, dim, placement):
  return plain(Table(where, IDS, dim, placement=placement))


MULT, SUM, CONCAT = operations.Mult(), operations.Add(), operations.Concat()
PATH = operations.PathBased(5)
QR_2 = partitions.QuotientRemainder(IDS, (7, 5))
QR_3 = partitions.QuotientRemainder(IDS, (4, 3, 3))
CR_2 = partitions.ChineseRemainder(IDS, (7, 5))
CR_3 = partitions.ChineseRemainder(IDS, (3, 4, 5))


def hashes(*buckets):
  return partitions.Hashes(2**31 - 1, buckets)


def groups():
  """Of each model its width, and encodings: (where, dim, placement) -> Case."""
  user = partitions.given(IDS, permuted)
  return {
    'few': (
      8,
      {
        'plain': plainly,
        'hash': of(hashes(7), SUM),
        'hashes mult': of(hashes(7, 5), MULT),
      },
    ),
    'hashed': (
      8,
      {
        'hashes add': of(hashes(7, 5), SUM),
        'hashes concat': of(hashes(7, 5), CONCAT),
        'robe': functools.partial(robe, salt=1),
        'robe again': functools.partial(robe, salt=2),
        'remainder add': of(CR_2, SUM),
        'projected': projected,
        'train': of(QR_3, operations.TensorTrain(2)),
      },
    ),
    'two': (
      8,
      {
        'quotient mult': of(QR_2, MULT),
        'quotient mult sums': of(QR_2, MULT, sums_first=True),
        'quotient add': of(QR_2, SUM),
        'quotient concat': of(QR_2, CONCAT),
        'quotient path': of(QR_2, PATH),
        'given mult': of(user, MULT),
      },
    ),
    'three': (
      12,
      {
        'quotients mult': of(QR_3, MULT),
        'quotients mult sums': of(QR_3, MULT, sums_first=True),
        'quotients add': of(QR_3, SUM),
        'quotients concat': of(QR_3, CONCAT),
        'quotients path': of(QR_3, PATH),
        'remainders mult': of(CR_3, MULT),
        'train': of(QR_3, operations.TensorTrain(2)),
      },
    ),
  }
