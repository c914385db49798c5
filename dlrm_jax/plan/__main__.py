"""Plans a config for any devices: placement, memory and traffic of its tables.

  python -m dlrm_jax.plan --config=configs/criteo_mlperf.py --devices=64
  python -m dlrm_jax.plan --config=configs/criteo_kaggle.py --memory=8GB

No device is used and no example is read: sizes come from a prepared set
(--config.data.dir) or from config.data.expected. With --compile=v5e:2x4 the
training step is compiled for a TPU slice, without the slice.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from dlrm_jax import files
from dlrm_jax.config import command_line
from dlrm_jax.config.fields import count, read_size
from dlrm_jax.config.parser import Parser
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.build.task import Planned
  from dlrm_jax.plan.advice import Flags, Hint
  from dlrm_jax.plan.forecast import Forecast


class Wanted(NamedTuple):
  """What to plan for.

  Attributes:
    devices: number of devices; None: as many as shards.
    memory: memory of a device, as in '16GB'; None: that of the config.
    compile: libtpu's name of a slice to compile for, or None.
  """

  devices: int | None = None
  memory: str | None = None
  compile: str | None = None


def _parser() -> Parser:
  parser = Parser(prog='python -m dlrm_jax.plan', description=__doc__)
  command_line.add_config(parser)
  add = parser.add_argument
  add(
    '--devices',
    type=int,
    metavar='N',
    help='number of devices (default: config.tables.shards)',
  )
  add(
    '--memory',
    metavar='SIZE',
    help='memory of a device, as in 16GB; sets config.tables.memory',
  )
  add(
    '--compile',
    metavar='SLICE',
    help='TPU slice to compile the step for, as in v5e:2x4',
  )
  add(
    '--json',
    metavar='FILE',
    help='file for numbers, notes and the hint',
  )
  return parser


def _spread_over(config: ConfigDict, devices: int | None) -> Iterator[str]:
  """Sets the shards to the devices, unless these divide them; yields a note."""
  if devices is None:
    return
  if devices < 1:
    raise InputError(f'--devices is {devices}; expected 1 or more')
  if config.tables.shards % devices:
    yield (
      f'{config.tables.shards} shards cannot be cut over {devices} devices: '
      f'planned for --config.tables.shards={devices}; train with it, too'
    )
    config.tables.shards = devices


def _uneven(config: ConfigDict, devices: int) -> Iterator[str]:
  """Notes of batch sizes that training refuses on these devices."""
  units = {
    'train.batch_size': math.lcm(
      devices,
      count(config, 'data.lanes', 1) * (1 + count(config, 'data.negatives', 0)),
    ),
    'train.eval_batch_size': devices,
  }
  for field, unit in units.items():
    size = count(config, field, 1)
    if size % unit:
      nearest = max(round(size / unit), 1) * unit
      yield (
        f'config.{field} is {size}, which training refuses on {devices} '
        f'devices: not a multiple of {unit}; the nearest is --config.{field}='
        f'{nearest}'
      )


def _memory_note(memory: str | None, planned: 'Planned') -> Iterator[str]:
  """A note where placements depend on a memory that is not in the config."""
  chosen = planned.tables.chosen.values()
  if memory and any(choice.why != 'given' for choice in chosen):
    yield (
      f'tables are placed for --memory={memory}; train with '
      f'--config.tables.memory={memory}, too'
    )


def _chips(topology: str, devices: int | None) -> int:
  """Number of chips of a slice; refuses another number of devices."""
  from dlrm_jax.plan.chips import find_devices

  chips = len(find_devices(topology))
  if devices not in (None, chips):
    raise InputError(
      f'--devices is {devices}; {topology} has {chips} chips; leave '
      f'--devices out'
    )
  return chips


def _forecast(
  config: ConfigDict, devices: int | None, memory: str | None
) -> 'Forecast':
  """Plans a copy of the config."""
  from dlrm_jax.build.data import open_schema
  from dlrm_jax.build.network import check_trains
  from dlrm_jax.build.run import settled
  from dlrm_jax.build.task import build_plan
  from dlrm_jax.plan.forecast import Forecast

  check_trains(config)
  config = config.copy_and_resolve_references()
  changed = memory if memory != config.tables.memory else None
  if memory:
    config.tables.memory = memory
  notes = list(_spread_over(config, devices))
  config = settled(config)
  planned = build_plan(config, *open_schema(config))
  devices = devices or planned.tables.shards
  notes += [*_memory_note(changed, planned), *_uneven(config, devices)]
  return Forecast(
    task=planned.task,
    whys={name: c.why for name, c in planned.tables.chosen.items()},
    batch=planned.batch,
    devices=devices,
    budget=planned.memory,
    notes=tuple(notes),
  )


def _hint(
  forecast: 'Forecast', config: ConfigDict, wanted: Wanted
) -> 'Hint | None':
  """Flags to add so that the config fits."""
  from dlrm_jax.plan.advice import find_hint

  def replan(flags: 'Flags') -> 'Forecast | None':
    changed = config.copy_and_resolve_references()
    fields = {
      name.removeprefix('config.'): value
      for name, value in flags.items()
      if name != 'devices'
    }
    changed.update_from_flattened_dict(fields)
    devices: Any = flags.get('devices', forecast.devices)
    try:
      return _forecast(changed, devices, wanted.memory)
    except InputError:
      return None

  return find_hint(forecast, replan, more_devices=not wanted.compile)


def planned(
  config: ConfigDict, wanted: Wanted, notes: Sequence[str]
) -> dict[str, Any]:
  """Plans a config and prints the plan; returns its numbers.

  Args:
    config: all fields.
    wanted: what to plan for.
    notes: further notes to print.
  """
  from dlrm_jax.plan.advice import hint_lines
  from dlrm_jax.plan.forecast import forecast_json, forecast_lines

  devices, memory, topology = wanted
  if memory:
    read_size('--memory', memory)
  if topology is not None:
    devices = _chips(topology, devices)
  forecast = _forecast(config, devices, memory)
  notes = (*forecast.notes, *notes)
  forecast = dataclasses.replace(forecast, notes=notes)
  hint = _hint(forecast, config, wanted)
  print(*forecast_lines(forecast), *hint_lines(forecast, hint), sep='\n')
  numbers = forecast_json(forecast)
  numbers['suggestions'] = [hint._asdict()] if hint else []
  if topology is not None:
    from dlrm_jax.plan import compiled

    report = compiled.report(forecast.task, forecast.batch, topology)
    print(*report.lines, sep='\n')
    numbers['compiled'] = report.numbers
  return numbers


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Plans, prints, and compiles with --compile."""
  import jax

  known = default.get_config().to_dict()
  options = command_line.read_flags(_parser(), argv, known)
  jax.config.update('jax_platforms', 'cpu')  # No accelerator is needed.
  if options.json:
    files.check_writable(Path(options.json), f'--json={options.json}')
  wanted = Wanted(options.devices, options.memory, options.compile)
  notes = command_line.notes_of_unused(argv, options.config, known)
  numbers = planned(options.config, wanted, notes)
  if options.json:
    files.write_json(Path(options.json), numbers)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
