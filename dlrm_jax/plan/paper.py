"""The least time of a compiled step on a TPU slice, from the chip's numbers.

Three parts of a chip work side by side: the units that multiply, the memory,
and the links to other chips. Each needs some time for a step, and the slowest
binds: no step is faster. A real step is slower, as rows are read one by one and
few operations overlap wholly.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dlrm_jax.errors import InputError
from dlrm_jax.hlo import Collective
from dlrm_jax.text import brief, human

EXAMPLES = 'v5e:1x1, v5e:2x4, v5e:16x16, v5p:2x2x1, v6e:2x4'
_AXES = re.compile(r'[1-9]\d{0,2}(?:x[1-9]\d{0,2}){1,2}')


class Chip(NamedTuple):
  """Rates of a TPU chip.

  Attributes:
    kinds: JAX's names of the chip.
    products: bfloat16 operations a second; products of float32 are computed
      in bfloat16, too, unless `jax_default_matmul_precision` asks for more.
    memory: bytes a second between the memory and the cores.
    link: bytes a second in one direction of a link to a neighbour.
    ring: an axis with a multiple of this many chips is a ring.
    largest: chips along each axis of the largest slice.
  """

  kinds: tuple[str, ...]
  products: float
  memory: float
  link: float
  ring: int
  largest: tuple[int, ...]


CHIPS = {
  'v5e': Chip(('TPU v5 lite', 'TPU v5e'), 197e12, 819e9, 45e9, 16, (16, 16)),
  'v5p': Chip(('TPU v5', 'TPU v5p'), 459e12, 2765e9, 90e9, 4, (16, 20, 28)),
  'v6e': Chip(('TPU v6 lite', 'TPU v6e'), 918e12, 1600e9, 90e9, 16, (16, 16)),
}
"""Chips by libtpu's name of their generation.

Products and memory: docs.cloud.google.com/tpu/docs/v5e, .../v5p and .../v6e.
Links and rings: jax-ml.github.io/scaling-book/tpus.
"""


class Paper(NamedTuple):
  """Seconds that parts of a chip need for a step.

  Attributes:
    products: of multiplying.
    memory: of reading and writing.
    exchange: of the links.
  """

  products: float
  memory: float
  exchange: float

  @property
  def binding(self) -> str:
    """Name of the part that needs the longest."""
    return max(self._fields, key=lambda name: getattr(self, name))

  @property
  def seconds(self) -> float:
    """The least duration of a step."""
    return max(self)


def _links(axes: Sequence[int], chip: Chip) -> list[int]:
  """For each axis, links over a cut through one line of chips along it.

  >>> _links((2, 4), CHIPS['v5e']), _links((1, 16), CHIPS['v5e'])
  ([1, 1], [0, 2])
  >>> _links((2, 2, 4), CHIPS['v5p']), _links((4, 4, 8), CHIPS['v5p'])
  ([1, 1, 1], [2, 2, 2])
  """
  rings = [n % chip.ring == 0 for n in axes]
  if len(axes) == 3:  # whole cubes have rings, along all axes
    rings = [all(rings)] * 3
  return [
    0 if n == 1 else 1 + ring for n, ring in zip(axes, rings, strict=True)
  ]


def shape_of(topology: str) -> list[int]:
  """Chips along each axis of a slice.

  Args:
    topology: libtpu's name: generation, and chips in each direction.

  Raises:
    InputError: there is no such slice, or its chip is not in `CHIPS`.

  >>> shape_of('v5p:2x2x1')
  [2, 2, 1]
  """
  generation, _, text = topology.partition(':')
  chip = CHIPS.get(generation)
  axes = [int(n) for n in text.split('x')] if _AXES.fullmatch(text) else []
  if chip is None or len(axes) != len(chip.largest):
    raise InputError(
      f'--compile={topology}: expected {", ".join(CHIPS)} and the chips in '
      f'each direction, such as {EXAMPLES}'
    )
  if any(n > most for n, most in zip(sorted(axes), chip.largest, strict=True)):
    most = 'x'.join(map(str, chip.largest))
    raise InputError(
      f'--compile={topology}: the largest slice is {generation}:{most}'
    )
  return axes


def exchange_seconds(
  collectives: Iterable[Collective], topology: str, chip: Chip
) -> float:
  """The least duration of all exchanges of a step, one after the other.

  Whatever a chip sends leaves it over its links, and a chip in a corner has the
  fewest. In an all-to-all of the slice, half of the chips send to the other
  half over the links of a cut. In an all-reduce of it each chip sends at least
  its array, and all together what a ring sends, over all links.

  >>> all_to_all = Collective('all-to-all', 'f32[8,8]', 8, 9e6, False)
  >>> f'{exchange_seconds([all_to_all], "v5e:2x4", CHIPS["v5e"]):.6f}'
  '0.000229'
  """
  axes = shape_of(topology)
  chips = math.prod(axes)
  if chips == 1:
    return 0.0
  links = _links(axes, chip)
  corner = 1 / sum(links)
  # Bytes over a link of the cut, for each byte that a chip sends.
  cut = max(
    chips * n / (4 * (chips - 1) * count)
    for n, count in zip(axes, links, strict=True)
    if count
  )
  # Directions of links: a line of n chips has n - 1 links, a ring n.
  directions = sum(
    2 * chips // n * (n - 2 + count)
    for n, count in zip(axes, links, strict=True)
    if count
  )
  seconds = 0.0
  for c in collectives:
    if c.overflow:
      continue
    load = corner
    if c.kind == 'all-reduce':  # a ring sends an array nearly twice
      load = corner * c.group / (2 * (c.group - 1))
    if c.group == chips and c.kind == 'all-reduce':
      load = max(load, chips / directions)
    if c.group == chips and 'all-to-all' in c.kind:
      load = max(load, cut)
    seconds += c.bytes * c.count * load / chip.link
  return seconds


def on_paper(
  topology: str,
  flops: float,
  memory_bytes: int,
  collectives: Iterable[Collective],
) -> Paper:
  """The least times of a step.

  Args:
    topology: libtpu's name of the slice, for example 'v5e:2x4'.
    flops: operations of a chip in a step.
    memory_bytes: bytes that a chip reads and writes in a step.
    collectives: exchanges of a step.
  """
  chip = CHIPS[topology.partition(':')[0]]
  return Paper(
    products=flops / chip.products,
    memory=memory_bytes / chip.memory,
    exchange=exchange_seconds(collectives, topology, chip),
  )


def paper_lines(paper: Paper, topology: str, batch_size: int) -> Iterator[str]:
  """Lines about the least duration of a step, for a terminal."""
  chip = CHIPS[topology.partition(':')[0]]
  rate = float(f'{batch_size / paper.seconds:.3g}')
  yield (
    f'on paper  {brief(paper.seconds)} a step at least, as {paper.binding} '
    f'binds: at most {rate:,.0f} examples/s'
  )
  rates = (
    f'{chip.products / 1e12:,.0f} TFLOP/s in bfloat16',
    f'{human(chip.memory)}/s',
    f'{human(chip.link)}/s a link',
  )
  for name, seconds, at in zip(paper._fields, paper, rates, strict=True):
    yield f'          {name:<9}{brief(seconds):>9}  {at}'
