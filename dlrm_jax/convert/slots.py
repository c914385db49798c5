"""States of optimizers that both sides have: sums of squares of Adagrads.

torch's Adagrad is config.optimizer.name=adagrad, and RWSAdagrad and fused
row-wise Adagrad are rowwise_adagrad of tables. Plain SGD keeps nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from dlrm_jax.build.converted import optimizer_names
from dlrm_jax.convert.program import Array, Found, Match

SUMS = 'sum_of_squares'
"""Name of such states in our checkpoints."""
_NAMES = ('sum', 'momentum', 'momentum1')
_KEPT = {
  'adagrad': 'the sums of squares of Adagrad',
  'rowwise_adagrad': 'the sum of squares of row-wise Adagrad for each row',
}


class Side(NamedTuple):
  """The optimizer of layers, or that of tables.

  Attributes:
    section: its section of a config.
    name: its name.
    of_tables: whether it moves tables.
  """

  section: str
  name: str
  of_tables: bool

  @property
  def what(self) -> str:
    """What it moves."""
    return 'tables' if self.of_tables else 'layers'

  @property
  def kept(self) -> str:
    """What is carried over between its state here and in other programs.

    '' where they keep nothing, or each something else.
    """
    return _KEPT.get(self.name, '')

  def shape(self, match: Match) -> tuple[int, ...]:
    """The shape of the state of a tensor."""
    by_row = self.name == 'rowwise_adagrad'
    return match.shape[:1] if by_row else match.shape


def sides(config: ConfigDict) -> list[Side]:
  """The optimizers of a config: of layers, and of tables."""
  return [
    Side(section, name, section == 'table_optimizer')
    for section, name in optimizer_names(config).items()
  ]


class Carried(NamedTuple):
  """What is carried over of an optimizer.

  Attributes:
    states: by name of our table, or of our array of a layer, the state.
    line: a line that says so, or why nothing is carried over.
  """

  states: Mapping[str, Array]
  line: str


def carried(side: Side, found: Found, matches: Sequence[Match]) -> Carried:
  """The states of an optimizer in a file, if they are those of ours."""
  mine = [match for match in matches if match.is_table == side.of_tables]
  states: dict[str, Array] = {}
  there: set[str] = set()
  for match in mine:
    slots = found.slots.get(match.name, {})
    there |= slots.keys() - {'step'}
    for name in _NAMES:
      if name in slots and slots[name].shape == side.shape(match):
        states[match.ours] = slots[name]
  start = f'optimizer of {side.what}:'
  setting = f'config.{side.section}.name is {side.name}'
  if side.kept and len(states) == len(mine):
    return Carried(states, f'{start} {side.kept} carried over')
  if not there:
    why = 'the file has no state of it'
    if side.name == 'sgd':
      return Carried({}, f'{start} keeps nothing, as {setting}')
  elif not side.kept:
    why = f'the file has {", ".join(sorted(there))}, and {setting}'
  elif states:
    lacking = next(m.name for m in mine if m.ours not in states)
    why = f'the file has none of {lacking}'
  else:
    why = (
      f'the file has {", ".join(sorted(there))} of other shapes, and {setting}'
    )
  return Carried({}, f'{start} begins anew, as {why}')
