"""What would go where on devices that need not be here, and whether it fits.

  python -m dlrm_jax.plan --config=configs/criteo_mlperf.py --devices=64
  python -m dlrm_jax.plan --config=configs/criteo_kaggle.py --memory=8GB

No device is touched and no example is read: sizes come from a prepared set
(--config.data.dir) or from what the config expects. With --compile=v5e:2x4
the real training step is compiled for a TPU slice, which need not be here
either.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from dlrm_jax import files
from dlrm_jax.config import command_line
from dlrm_jax.config.fields import count, read_size
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.build.task import Planned
  from dlrm_jax.plan.advice import Flags, Suggestion
  from dlrm_jax.plan.forecast import Forecast


def _define_flags() -> None:
  config_flags.DEFINE_config_file(
    'config', None, 'File of configs/: FILE.py, or FILE.py:VARIANT.'
  )
  flags.DEFINE_integer(
    'devices', None, 'Devices; default: config.tables.shards.'
  )
  flags.DEFINE_string(
    'memory', None, 'Of a device, as 16GB; sets config.tables.memory.'
  )
  flags.DEFINE_string(
    'compile', None, 'A TPU slice to compile the step for, as v5e:2x4.'
  )
  flags.DEFINE_string(
    'json', None, 'File to write numbers, notes and advice to.'
  )


def _spread_over(config: ConfigDict, devices: int | None) -> Iterator[str]:
  """Makes the shards fit the devices, and says so."""
  if devices is None:
    return
  if devices < 1:
    raise InputError(f'--devices={devices}: expected 1 or more')
  if config.tables.shards % devices:
    yield (
      f'{config.tables.shards} shards can not be cut over {devices} devices: '
      f'planned for --config.tables.shards={devices}; give that to train.py, '
      f'too'
    )
    config.tables.shards = devices


def _uneven(config: ConfigDict, devices: int) -> Iterator[str]:
  """Notes of batches that train.py will refuse."""
  units = {
    'train.batch_size': math.lcm(devices, count(config, 'data.lanes', 1)),
    'train.eval_batch_size': devices,
  }
  for field, unit in units.items():
    size = count(config, field, 1)
    if size % unit:
      nearest = max(round(size / unit), 1) * unit
      yield (
        f'config.{field} is {size}, which train.py refuses on {devices} '
        f'devices: not a multiple of {unit}; the nearest is --config.{field}='
        f'{nearest}'
      )


def _memory_note(given: str | None, planned: 'Planned') -> Iterator[str]:
  """That tables were placed for a memory which the config does not have."""
  chosen = planned.tables.chosen.values()
  if given and any(choice.why != 'given' for choice in chosen):
    yield (
      f'tables are placed for --memory={given}; give '
      f'--config.tables.memory={given} to train.py, too'
    )


def _chips(topology: str, devices: int | None) -> int:
  """Chips of a slice, for which then is planned, too."""
  from dlrm_jax.plan import compiled

  chips = len(compiled.find_devices(topology))
  if devices not in (None, chips):
    raise InputError(
      f'--devices={devices}: {topology} has {chips} chips; leave --devices out'
    )
  return chips


def _forecast(
  config: ConfigDict, devices: int | None, memory: str | None
) -> 'Forecast':
  """The plan of these flags; the config stays as it is."""
  from dlrm_jax.build.data import open_schema
  from dlrm_jax.build.run import settled
  from dlrm_jax.build.task import build_plan
  from dlrm_jax.plan.forecast import Forecast

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
    lanes=config.data.lanes,
    notes=tuple(notes),
  )


def _advice(
  forecast: 'Forecast',
  config: ConfigDict,
  given: Mapping[str, Any],
) -> 'list[Suggestion]':
  """What to add to the flags."""
  from dlrm_jax.plan.advice import advice

  def retry(flags: 'Flags') -> 'Forecast | None':
    changed = config.copy_and_resolve_references()
    fields = {
      name.removeprefix('config.'): value
      for name, value in flags.items()
      if name != 'devices'
    }
    changed.update_from_flattened_dict(fields)
    devices: Any = flags.get('devices', forecast.devices)
    try:
      return _forecast(changed, devices, given['memory'])
    except InputError:
      return None

  return advice(forecast, retry, more_devices=not given['compile'])


def _compiled(forecast: 'Forecast', topology: str | None) -> list[str]:
  """What the compiler says, if it is asked."""
  if not topology:
    return []
  from dlrm_jax.plan import compiled

  return list(compiled.report(forecast.task, forecast.batch, topology))


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Plans, prints, and compiles if asked to."""
  from dlrm_jax.plan import advice, forecast

  del argv
  given = flags.FLAGS.flag_values_dict()
  config, devices = given['config'], given['devices']
  if given['json']:
    files.check_writable(Path(given['json']), f'--json={given["json"]}')
  if given['memory']:
    read_size('--memory', given['memory'])
  if given['compile']:
    devices = _chips(given['compile'], devices)
  defaults = default.get_config().to_dict()
  notes = command_line.notes_of_unused(sys.argv, config, defaults)
  found = _forecast(config, devices, given['memory'])
  found = dataclasses.replace(found, notes=(*found.notes, *notes))
  suggested = _advice(found, config, given)
  print(*forecast.lines(found), *advice.lines(found, suggested), sep='\n')
  compiled = _compiled(found, given['compile'])
  if compiled:
    print(*compiled, sep='\n')
  if given['json']:
    result = forecast.to_json(found) | {
      'suggestions': [s._asdict() for s in suggested],
      'compiled': compiled,
    }
    files.write_json(Path(given['json']), result)


def run() -> None:
  """The command."""
  needed = {'config': 'FILE'}
  known = default.get_config().to_dict()
  command_line.run(main, _define_flags, needed, known)


if __name__ == '__main__':
  run()
