"""What would go where on devices that need not be here, and whether it fits.

  python -m dlrm_jax.plan --config=configs/criteo_mlperf.py --devices=64
  python -m dlrm_jax.plan --config=configs/criteo_kaggle.py --memory=8GB

No device is touched and no data is read: sizes come from a prepared set
(--config.data.dir) or from what the config expects. With --compile=v5e:2x4
the real training step is compiled for a TPU slice, which need not be here
either.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from dlrm_jax import command_line
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.training.forecast import Forecast


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
  flags.DEFINE_string('json', None, 'File to write all of it to.')


def _spread_over(config: ConfigDict, devices: int | None) -> Iterator[str]:
  """Makes the shards fit the devices, and says so."""
  if devices is None:
    return
  if devices < 1:
    raise InputError(f'--devices={devices}: expected 1 or more')
  if config.tables.shards % devices:
    yield (
      f'note      {config.tables.shards} shards can not be cut over {devices} '
      f'devices: planned for --config.tables.shards={devices}; give that to '
      f'train.py, too'
    )
    config.tables.shards = devices


def _chips(topology: str, devices: int | None) -> int:
  """Chips of a slice, for which then is planned, too."""
  from dlrm_jax import compiled

  chips = len(compiled.find_devices(topology))
  if devices not in (None, chips):
    raise InputError(
      f'--devices={devices}: {topology} has {chips} chips; leave --devices out'
    )
  return chips


def _forecast(config: ConfigDict, devices: int | None) -> 'Forecast':
  from dlrm_jax import build
  from dlrm_jax.training.forecast import Forecast

  planned = build.build_plan(config, *build.open_schema(config))
  return Forecast(
    task=planned.task,
    whys={name: c.why for name, c in planned.tables.chosen.items()},
    batch=planned.batch,
    devices=devices or planned.tables.shards,
    budget=planned.memory,
  )


def _check_writable(path: str | None) -> None:
  """Raises before the work is done, not after."""
  if path and not Path(path).absolute().parent.is_dir():
    raise InputError(f'--json={path}: its folder does not exist')


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Plans, prints, and compiles if asked to."""
  from dlrm_jax.training import workdir
  from dlrm_jax.training.advice import advice
  from dlrm_jax.training.forecast import lines, to_json

  del argv
  given = flags.FLAGS.flag_values_dict()
  config, devices = given['config'], given['devices']
  _check_writable(given['json'])
  if given['memory']:
    config.tables.memory = given['memory']
  if given['compile']:
    devices = _chips(given['compile'], devices)
  notes = list(_spread_over(config, devices))
  forecast = _forecast(config, devices)
  print(*lines(forecast), *advice(forecast), *notes, sep='\n')
  if given['json']:
    workdir.write_json(Path(given['json']), to_json(forecast))
  if given['compile']:
    from dlrm_jax import compiled

    step = forecast.task, forecast.batch, given['compile']
    print(*compiled.report(*step), sep='\n')


def _parse(argv: Sequence[str]) -> Sequence[str]:
  return command_line.parse(argv, {'config': 'FILE'})


if __name__ == '__main__':
  _define_flags()
  app.run(main, flags_parser=_parse)
