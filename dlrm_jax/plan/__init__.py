"""Memory and traffic of a config, before it runs; `python -m dlrm_jax.plan`."""

import os
from typing import Any

from ml_collections import ConfigDict

from dlrm_jax.callable_module import make_callable, shown
from dlrm_jax.errors import InputError


def plan(
  config: ConfigDict | str | os.PathLike[str],
  devices: int | None = None,
  memory: str | None = None,
  compile: str | None = None,  # named as the option of the command
) -> dict[str, Any]:
  """Plans a config for any devices and prints the plan, as the command does.

  Args:
    config: all settings, or the name of a file.
    devices: number of devices; None: config.tables.shards.
    memory: memory of a device, as in '16GB'; None: config.tables.memory.
    compile: TPU slice to compile the step for, as in 'v5e:2x4'.

  Returns:
    The numbers, as `--json=FILE` writes them.

  Raises:
    InputError: the config or an argument is wrong, or there is no compiler.
  """
  for name, value, kind, example in (
    ('devices', devices, int, '8'),
    ('memory', memory, str, "'16GB'"),
    ('compile', compile, str, "'v5e:2x4'"),
  ):
    if value is not None and type(value) is not kind:
      raise InputError(
        f'--{name} is {shown(value)}; expected such as {example}'
      )
  from dlrm_jax.config import command_line, config_file
  from dlrm_jax.configs import default
  from dlrm_jax.plan.__main__ import Wanted, planned

  known = default.get_config().to_dict()
  config = config_file.taken(config, known)
  notes = command_line.notes_of_unused((), config, known)
  return planned(config, Wanted(devices, memory, compile), notes)


make_callable(__name__, plan)
