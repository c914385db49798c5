"""Blocks of kernels; a parser of flags reads them, so this imports little."""

import re
from typing import NamedTuple

from dlrm_jax.errors import InputError


class Block(NamedTuple):
  """The size of a block.

  Attributes:
    rows: number of inputs.
    columns: number of outputs.
  """

  rows: int
  columns: int

  def __str__(self) -> str:
    return f'{self.rows}x{self.columns}'


def read_block(option: str, text: str) -> Block:
  """The block that a text names.

  Args:
    option: flag or field that has the text, for the message.
    text: rows and columns, as 8x1.

  Raises:
    InputError: it names none.

  >>> read_block('--block', '8x1')
  Block(rows=8, columns=1)
  """
  found = re.fullmatch(r'([1-9]\d{0,8})x([1-9]\d{0,8})', text)
  if not found:
    raise InputError(
      f'{option} is {text!r}; expected rows and columns of a kernel, as in 8x1'
    )
  return Block(int(found[1]), int(found[2]))
