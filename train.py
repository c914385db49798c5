"""Trains a recommender, or goes on training it.

  python train.py --config=configs/synthetic.py --workdir=runs/first

Any field of the config can be set: `--config.train.batch_size=2048`. The same
command again resumes; `python -m dlrm_jax.evaluate --workdir=DIR` evaluates.
On many hosts each runs this, with --distributed in a cluster that JAX knows,
else with --coordinator=HOST:PORT --processes=N --process=K.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from configs import default
from dlrm_jax import cluster, command_line, heap
from dlrm_jax.errors import exit_cleanly

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File of configs/: FILE.py, or FILE.py:VARIANT.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for checkpoints, logs and the report.'
)
_PROFILE = flags.DEFINE_integer(
  'profile', None, 'Trace so many steps, time their parts; changes no run.'
)
cluster.define_flags()


def _defaults() -> dict[str, Any]:
  return default.get_config().to_dict()


def _parse(argv: Sequence[str]) -> Sequence[str]:
  needed = {'config': 'FILE', 'workdir': 'DIR'}
  return command_line.parse(argv, needed, _defaults())


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Joins the other processes, builds the run; trains it or profiles it."""
  from dlrm_jax import build, sharding
  from dlrm_jax.training import loop, plan, profile, room, workdir

  del argv
  heap.keep_freed_memory()
  config, folder = _CONFIG.value, Path(str(_WORKDIR.value))
  notes = command_line.notes_of_unused(sys.argv, config, _defaults())
  with cluster.joined(flags.FLAGS.flag_values_dict()):
    data = build.open_data(config)
    run = build.build_run(config, data, folder)
    with sharding.use(loop.choose_mesh(run)):
      room.check_room(run)
      if _PROFILE.value is not None:
        profile.profile(run, _PROFILE.value)
        return
      claim = workdir.Claim(
        run.config, build.identity(data), run.steps, _defaults()
      )
      with workdir.claimed(folder, claim):
        print(*plan.lines(run), *(f'note      {x}' for x in notes), sep='\n')
        loop.train(run)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
