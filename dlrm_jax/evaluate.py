"""Evaluates a checkpoint on any split, prepared set or raw file.

  python -m dlrm_jax.evaluate --workdir=runs/kaggle
  python -m dlrm_jax.evaluate --workdir=runs/kaggle --data=new_log.txt

A raw file is read with the vocabularies of the training data; ids that were
never seen there go to the unknown row.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.batch import Batch
from dlrm_jax.errors import InputError, exit_cleanly


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m dlrm_jax.evaluate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--workdir', required=True, help='folder of the training run')
  add(
    '--data',
    help='a prepared set or a raw file; default: what it was trained on',
  )
  add('--split', help='of prepared data; default: test')
  add('--checkpoint', default='best', help='best (by AUC), latest, or a step')
  add('--batch_size', type=int, help='default: the one of the config')
  add('--on_bad_row', choices=('stop', 'skip'), default='stop')
  add('--json', metavar='FILE', help='write the JSON there, too')
  return parser


def _batches(
  arguments: argparse.Namespace,
  config: Any,
  data: Any,
  batch_size: int,
  bad: Any,
) -> tuple[str, Iterable[Batch]]:
  """What is evaluated, by name, and its batches."""
  from dlrm_jax import build
  from dlrm_jax.data import criteo
  from dlrm_jax.data.loader import evaluation_batches, stream_batches
  from dlrm_jax.data.prepared import open_prepared

  path = arguments.data
  if path and Path(path).is_file():
    if arguments.split:
      raise InputError(
        f'--split={arguments.split}: {path} is a raw file and has no splits'
      )
    if config.data.kind != 'prepared':
      raise InputError(
        f'--data={path}: the model was trained on {config.data.kind} data, '
        f'which has no raw files'
      )
    trained_on = open_prepared(config.data.dir)
    build.check_fits(trained_on, data)
    blocks = criteo.read_raw(trained_on, [path], bad=bad)
    return path, stream_batches(blocks, batch_size)
  if path and not Path(path).exists():
    raise InputError(f'--data={path}: there is no such file or folder')
  if path:
    config.data.kind, config.data.dir = 'prepared', path
  evaluated = build.open_data(config)
  build.check_fits(evaluated, data)
  split = arguments.split or 'test'
  return split, evaluation_batches(evaluated.source(split), batch_size)


def _checkpoint(name: str, best: int | None, latest: int | None) -> int:
  step = {'best': best, 'latest': latest}.get(name, name)
  if step is None:
    raise InputError('no checkpoint in the workdir; train first')
  try:
    return int(step)
  except ValueError:
    raise InputError(
      f'--checkpoint={name}: expected best, latest or a step'
    ) from None


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Parses the flags, restores, evaluates, prints."""
  arguments = _parser().parse_args(argv)
  from ml_collections import ConfigDict

  from dlrm_jax import build, metrics
  from dlrm_jax.data.criteo_read import BadRows
  from dlrm_jax.training import workdir
  from dlrm_jax.training.checkpoint import Checkpoints
  from dlrm_jax.training.evaluation import Evaluator
  from dlrm_jax.training.plan import score_table
  from dlrm_jax.training.state import abstract_state

  folder = Path(arguments.workdir)
  fields, data = workdir.read(folder)
  config = ConfigDict(fields)
  checkpoints = Checkpoints(folder / 'checkpoints')
  step = _checkpoint(arguments.checkpoint, checkpoints.best, checkpoints.latest)
  task = build.trained_task(config, data)
  size = arguments.batch_size or config.train.eval_batch_size
  bad = BadRows(arguments.on_bad_row)
  name, batches = _batches(arguments, config, data, size, bad)
  state = checkpoints.restore(step, abstract_state(task))
  scores = metrics.summarize(Evaluator(task)(state, batches))
  for line in bad.report():
    print(line)
  print(f'{folder}, checkpoint of step {step:,}')
  print(score_table(name, scores, {}))
  result = {'workdir': str(folder), 'step': step, 'data': name}
  text = workdir.to_json(result | {'metrics': scores})
  print(text)
  if arguments.json:
    workdir.write_text(Path(arguments.json), text + '\n')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
