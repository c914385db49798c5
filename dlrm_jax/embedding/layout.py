"""Where rows live: tables of equal width lie side by side in one stack.

A stack is one array `f32[rows, D]`, so that any number of tables is one
gather and one scatter. Where a row of a table lives is arithmetic on its
number, a function of the config and never of the machine.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrm_jax.batch import PAD
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError

_MAX_ROWS = 2**31 - 1


class Address(NamedTuple):
  """Row `r` of the table is row `offset + r` of the stack."""

  stack: str
  offset: int


class Stack(NamedTuple):
  """Shape of a stack: `f32[rows, dim]`."""

  rows: int
  dim: int


@dataclasses.dataclass(frozen=True)
class Layout:
  """Stacks by name, and the address of every table."""

  stacks: Mapping[str, Stack]
  addresses: Mapping[str, Address]

  def locate(self, table: str, rows: jax.Array) -> jax.Array:
    """Rows of a table -> rows of its stack; PAD stays PAD."""
    return jnp.where(rows < 0, PAD, rows + self.addresses[table].offset)


def plan_layout(tables: Iterable[Table]) -> Layout:
  """Stacks tables of equal width in the order given.

  >>> layout = plan_layout([Table('a', 3, 8), Table('b', 5, 8)])
  >>> layout.stacks, layout.addresses['b'].offset
  ({'width_8': Stack(rows=8, dim=8)}, 3)
  """
  stacks: dict[str, Stack] = {}
  addresses: dict[str, Address] = {}
  for table in tables:
    name = f'width_{table.dim}'
    offset = stacks[name].rows if name in stacks else 0
    addresses[table.name] = Address(name, offset)
    stacks[name] = Stack(offset + table.rows, table.dim)
    if stacks[name].rows > _MAX_ROWS:
      raise InputError(
        f'table {table.name}: the tables of width {table.dim} have '
        f'{stacks[name].rows:,} rows together; rows are numbered by int32, '
        f'at most {_MAX_ROWS:,}; hash the largest or change their width'
      )
  return Layout(stacks, addresses)
