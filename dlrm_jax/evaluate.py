"""Evaluates a checkpoint on any split, prepared set or raw file.

  python -m dlrm_jax.evaluate --workdir=runs/kaggle
  python -m dlrm_jax.evaluate --workdir=runs/kaggle --data=new_log.txt
  python -m dlrm_jax.evaluate --workdir=runs/new --compare=runs/old

Raw files, or folders of them, are read with the vocabularies of the training
data; ids that were never seen there go to the unknown row, and are counted. On
many hosts each runs this, with the flags that train.py has for them.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrm_jax import cluster, heap
from dlrm_jax.command_line import spread
from dlrm_jax.errors import InputError, Parser, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.build_evaluation import Examined
  from dlrm_jax.training.comparison import Compared


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog='python -m dlrm_jax.evaluate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--workdir', required=True, help='folder of the training run')
  add(
    '--data',
    nargs='+',
    action='extend',
    metavar='PATH',
    help='a prepared set, or raw files and folders of them; default: what it '
    'was trained on',
  )
  add('--split', help='of prepared data; default: test')
  add('--checkpoint', default='best', help='best (by AUC), latest, or a step')
  add('--batch_size', type=int, help='default: the one of the config')
  add('--on_bad_row', choices=('stop', 'skip'), default='stop')
  add('--json', metavar='FILE', help='write the JSON there, too')
  add(
    '--compare',
    metavar='WORKDIR',
    help='another run: both are scored on the same rows, and it is said '
    'whether their difference is more than chance',
  )
  cluster.add_arguments(parser)
  return parser


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


def _check_scored(
  scores: Mapping[str, float], name: str, skipped: Iterable[str]
) -> None:
  """Raises where there was nothing to score, and says what was skipped."""
  if scores['examples']:
    return
  kinds = [line for line in skipped if not line.startswith(' ')]
  why = ', '.join(line.removesuffix('; first:') for line in kinds)
  raise InputError(
    f'{name}: no row is left to evaluate on: '
    f'{why or "found none, expected at least one"}'
  )


def _undefined(scores: Mapping[str, float], name: str) -> Iterator[str]:
  """A line where metrics are undefined, since there is one class only."""
  if scores['clicks'] in (0, scores['examples']):
    only = 'clicks only' if scores['clicks'] else 'no clicks'
    yield f'{name} has {only}: AUC, and what else needs both, is undefined\n'


def _check_writable(path: str | None) -> None:
  """Raises before the work is done, not after."""
  if path and not Path(path).absolute().parent.is_dir():
    raise InputError(f'--json={path}: its folder does not exist')


def _scored(
  folder: Path, arguments: argparse.Namespace
) -> tuple['Examined', 'Compared']:
  """A run, and what it says of every row."""
  from dlrm_jax import build_evaluation, sharding
  from dlrm_jax.configs import default
  from dlrm_jax.training import room, workdir
  from dlrm_jax.training.checkpoint import Checkpoints
  from dlrm_jax.training.comparison import Compared
  from dlrm_jax.training.evaluation import Evaluator
  from dlrm_jax.training.state import abstract_state

  defaults = default.get_config().to_dict()
  trained = build_evaluation.trained(*workdir.read(folder, defaults))
  layout = trained.task.collection.layout
  size = arguments.batch_size
  if size is None:
    size = trained.eval_batch_size
  checkpoints = Checkpoints(folder / 'checkpoints', layout)
  step = _checkpoint(arguments.checkpoint, checkpoints.best, checkpoints.latest)
  examined = build_evaluation.examined(
    trained, arguments.data, arguments.split, size, arguments.on_bad_row
  )
  mesh = sharding.choose_mesh(layout.shards, {'--batch_size': size})
  with sharding.use(mesh):
    room.check_evaluation_room(trained.task, size)
    abstract = abstract_state(trained.task)
    state = checkpoints.restore_for_evaluation(step, abstract)
    scored = Evaluator(trained.task).keep(state, examined.batches)
  return examined, Compared(str(folder), step, scored)


def _compare(arguments: argparse.Namespace) -> None:
  """Scores two runs on the same rows, prints what tells them apart."""
  from dlrm_jax.training import workdir
  from dlrm_jax.training.comparison import compare

  if arguments.distributed or arguments.coordinator:
    raise InputError('--compare: expected one process; leave out its flags')
  examined, a = _scored(Path(arguments.workdir), arguments)
  _, b = _scored(Path(arguments.compare), arguments)
  lines, result = compare(examined.name, a, b)
  met = examined.report()
  _check_scored(result['metrics'], examined.name, met.skipped)
  print(*met.lines, *lines, sep='\n')
  said = {'workdir': a.workdir, 'step': a.step, 'data': examined.name}
  text = workdir.to_json(said | met.said | result)
  print(text)
  if arguments.json:
    workdir.write_text(Path(arguments.json), text + '\n')


def _evaluate(arguments: argparse.Namespace) -> None:
  """Restores, evaluates, prints."""
  from dlrm_jax import agreement, build_evaluation, metrics, sharding
  from dlrm_jax.configs import default
  from dlrm_jax.training import room, workdir
  from dlrm_jax.training.checkpoint import Checkpoints
  from dlrm_jax.training.evaluation import Evaluator
  from dlrm_jax.training.nodes import divergence, node_count, node_table
  from dlrm_jax.training.plan import score_table
  from dlrm_jax.training.state import abstract_state

  folder = Path(arguments.workdir)
  defaults = default.get_config().to_dict()
  trained = build_evaluation.trained(*workdir.read(folder, defaults))
  layout = trained.task.collection.layout
  size = arguments.batch_size
  if size is None:
    size = trained.eval_batch_size
  checkpoints = Checkpoints(folder / 'checkpoints', layout)
  step = _checkpoint(arguments.checkpoint, checkpoints.best, checkpoints.latest)
  step = agreement.from_first(step)  # a run that goes on may make better ones
  examined = build_evaluation.examined(
    trained, arguments.data, arguments.split, size, arguments.on_bad_row
  )
  mesh = sharding.choose_mesh(layout.shards, {'--batch_size': size})
  with sharding.use(mesh):
    room.check_evaluation_room(trained.task, size)
    abstract = abstract_state(trained.task)
    state = checkpoints.restore_for_evaluation(step, abstract)
    evaluate = Evaluator(trained.task)
    result = {'workdir': str(folder), 'step': step, 'data': examined.name}
    if node_count(trained.task):
      tallies = evaluate.nodes(state, examined.batches)
      apart = divergence(trained.task, state)
      nodes = {name: metrics.summarize(t) for name, t in tallies.items()}
      scores = nodes['ensemble']
      table = node_table(nodes, apart)
      result |= {'nodes': nodes, 'divergence': apart}
    else:
      scores = metrics.summarize(evaluate(state, examined.batches))
      table = score_table(examined.name, scores, {})
  met = examined.report()
  _check_scored(scores, examined.name, met.skipped)
  print(*met.lines, f'{folder}, checkpoint of step {step:,}', sep='\n')
  print(table)
  print(*_undefined(scores, examined.name), sep='', end='')
  text = workdir.to_json(result | met.said | {'metrics': scores})
  print(text)
  if arguments.json and agreement.first():
    workdir.write_text(Path(arguments.json), text + '\n')


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Joins the other processes, if there are any, and evaluates."""
  arguments = _parser().parse_args(spread(argv, ('--data',)))
  _check_writable(arguments.json)
  heap.keep_freed_memory()
  if arguments.compare:
    _compare(arguments)
    return
  with cluster.joined(vars(arguments)):
    _evaluate(arguments)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
