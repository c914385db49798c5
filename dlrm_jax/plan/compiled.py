"""Memory, traffic and operations of a training step on a TPU slice.

libtpu, the compiler of TPUs (`pip install "jax[tpu]"`), runs without TPUs. It
compiles the step that would run on a slice with a known name. The numbers are
those of the compiled program, not of a model; nothing is executed.
"""

import dataclasses
import functools
import importlib.metadata
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlrm_jax import hlo
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.errors import InputError
from dlrm_jax.plan.chips import available, find_devices, find_size
from dlrm_jax.plan.paper import Paper, on_paper, paper_lines
from dlrm_jax.plan.products import products
from dlrm_jax.plan.program import Program
from dlrm_jax.plan.traffic import memory_bytes
from dlrm_jax.sharding import SPLIT, make_mesh, sharding_of, use
from dlrm_jax.text import duration, human
from dlrm_jax.training.state import Task, abstract_state
from dlrm_jax.training.step import compiled_step


class Memory(NamedTuple):
  """Memory of a chip, in bytes.

  Attributes:
    arguments: bytes of state and batch.
    temporaries: bytes of temporaries at the peak of the step.
    outputs: bytes of the outputs that do not replace an argument.
    program: bytes of the code.
  """

  arguments: int
  temporaries: int
  outputs: int
  program: int

  @property
  def total(self) -> int:
    """Sum of all parts."""
    return sum(self)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A training step, compiled for a slice.

  Attributes:
    chips: number of chips of the slice.
    memory: memory of each chip.
    collectives: collectives of the program.
    flops: floating-point operations of each chip in a step.
    memory_bytes: bytes that each chip reads from its memory and writes to it.
    seconds: duration of the compilation.
    text: the program as HLO.
  """

  chips: int
  memory: Memory
  collectives: list[hlo.Collective]
  flops: float
  memory_bytes: int
  seconds: float
  text: str


class OutOfMemory(Exception):
  """A step does not fit into the memory of a chip.

  Attributes:
    wanted: bytes that the step needs on a chip, or None if unknown.
    summary: first line of the compiler's message.
  """

  def __init__(self, message: str) -> None:
    super().__init__(message)
    self.summary = message.splitlines()[0]
    size = find_size(r'\(([\d.]+[KMGT])\) exceeds available HBM', message)
    self.wanted = size or find_size(r'Used ([\d.]+[KMGT]) of', message)


def _batch(task: Task, size: int) -> Batch:
  """Shapes of a global batch, split over the mesh in use."""
  make = functools.partial(
    jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=sharding_of(SPLIT)
  )
  network = task.network
  return Batch(
    Inputs(
      dense=make((size, network.dense_features)),
      ids=make((size, network.ids), dtype=jnp.int32),
    ),
    labels=make((size, len(task.heads))),
    weights=make((size,)),
  )


def compile_step(
  task: Task, batch_size: int, devices: list[Any]
) -> CompiledStep:
  """Compiles the training step.

  Args:
    task: the task, whose number of shards is a multiple of the devices.
    batch_size: examples of a step on all devices together.
    devices: devices of one kind, of a topology or real.

  Raises:
    InputError: the devices do not divide the shards or the batch.
    OutOfMemory: the step does not fit into a chip.
  """
  shards = task.collection.layout.shards
  if shards % len(devices):
    raise InputError(
      f'config.tables.shards is {shards}; expected a multiple of the '
      f'{len(devices)} chips (--devices={len(devices)})'
    )
  if batch_size % len(devices):
    raise InputError(
      f'config.train.batch_size is {batch_size}; expected a multiple of the '
      f'{len(devices)} chips'
    )
  with use(make_mesh(devices)):
    step = compiled_step(task)
    lowered = step.lower(abstract_state(task), _batch(task, batch_size))
    start = time.monotonic()
    try:
      with warnings.catch_warnings():
        # Chips that are not here cannot load a program of JAX's cache.
        warnings.filterwarnings('ignore', 'Error reading persistent')
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      raise OutOfMemory(str(error)) from None
  return _described(compiled, len(devices), time.monotonic() - start)


def _described(
  compiled: jax.stages.Compiled, chips: int, seconds: float
) -> CompiledStep:
  memory: Any = compiled.memory_analysis()
  costs: Any = compiled.cost_analysis()
  try:
    text = compiled.as_text() or ''
  except jax.errors.JaxRuntimeError:
    raise InputError(
      f'libtpu {importlib.metadata.version("libtpu")} writes programs that jax '
      f'{jax.__version__} cannot read; `pip install "jax[tpu]=='
      f'{jax.__version__}"` installs the one that fits'
    ) from None
  program = Program(text)
  return CompiledStep(
    chips=chips,
    memory=Memory(
      arguments=memory.argument_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
      program=memory.generated_code_size_in_bytes,
    ),
    collectives=hlo.collectives(text),
    # The compiler counts the body of a loop once.
    flops=costs.get('flops', 0.0)
    + (products(program) - products(program, loops=False)),
    memory_bytes=memory_bytes(program),
    seconds=seconds,
    text=text,
  )


def _exchanges(step: CompiledStep) -> Iterator[str]:
  """Bytes exchanged, in all and by kind and shape."""
  collectives, total = step.collectives, hlo.exchanged(step.collectives)
  size = human(total)
  yield f'exchange  {size} sent by a chip each step, and as much received'
  for c in collectives:
    if not c.overflow and c.bytes * c.count >= 1e-3 * total:
      size = human(c.bytes * c.count)
      yield f'          {c.kind:<20}{c.count:>3} x {size:>8}  {c.shape}'
  more = sum(c.bytes * c.count for c in collectives if c.overflow)
  if more:
    yield (
      f'          {human(more)} more in each round of overflow, which only '
      f'skewed ids have'
    )


class Report(NamedTuple):
  """What a compiled step tells.

  Attributes:
    lines: for a terminal.
    numbers: the same as JSON values.
  """

  lines: list[str]
  numbers: dict[str, Any]


def _json(step: CompiledStep, paper: Paper, batch: int) -> dict[str, Any]:
  """The numbers of a step that fits."""
  return {
    'fits': True,
    'chips': step.chips,
    'memory': {**step.memory._asdict(), 'total': step.memory.total},
    'exchanged': hlo.exchanged(step.collectives),
    'flops': step.flops,
    'memory_bytes': step.memory_bytes,
    'on_paper': {
      **paper._asdict(),
      'binding': paper.binding,
      'seconds': paper.seconds,
      'examples_per_second': batch / paper.seconds,
    },
  }


def report(task: Task, batch_size: int, topology: str) -> Report:
  """Compiles a task's step for a slice, and tells about the program.

  Args:
    task: the task, whose number of shards is a multiple of the chips.
    batch_size: examples of a step on all chips together.
    topology: libtpu's name, for example 'v5e:2x4'.
  """
  devices = find_devices(topology)
  limit = available(devices[0])
  room = '' if limit is None else f' of {human(limit)} that a chip has'
  chips = f'{len(devices)} x {devices[0].device_kind}'
  try:
    step = compile_step(task, batch_size, devices)
  except OutOfMemory as error:
    wanted = '' if error.wanted is None else human(error.wanted)
    lines = [
      f'compiled  {topology}, {chips}: DOES NOT FIT',
      f'memory    {wanted or error.summary} wanted{room}',
    ]
    return Report(lines, {'fits': False, 'wanted': error.wanted})
  memory = step.memory
  paper = on_paper(topology, step.flops, step.memory_bytes, step.collectives)
  lines = [
    f'compiled  {topology}, {chips}, in {duration(step.seconds)}: it fits',
    f'memory    {human(memory.total)}{room}',
    *(
      f'          {name:<12}{human(size):>9}'
      for name, size in memory._asdict().items()
    ),
    *_exchanges(step),
    f'work      {step.flops / 1e9:,.3g} GFLOP of a chip each step, '
    f'{human(step.memory_bytes)} read from its memory and written',
  ]
  lines += paper_lines(paper, topology, batch_size)
  return Report(lines, _json(step, paper, batch_size))
