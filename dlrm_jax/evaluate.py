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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlrm_jax import files, heap
from dlrm_jax.cluster import job
from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from dlrm_jax.build.restored import Examined
  from dlrm_jax.checkpoint.checkpoints import Checkpoints
  from dlrm_jax.run.comparison import Compared
  from dlrm_jax.training.state import Task, TrainState


def _parser() -> argparse.ArgumentParser:
  parser = Parser(prog='python -m dlrm_jax.evaluate', description=__doc__)
  parser.add_required('--workdir', 'DIR', 'folder of the training run')
  add = parser.add_argument
  add(
    '--data',
    nargs='+',
    action='extend',
    metavar='PATH',
    help='a prepared set, or raw files and folders of them; default: what it '
    'was trained on',
  )
  add('--split', help='of prepared data; default: test')
  add(
    '--checkpoint',
    default='best',
    help='best (by the objective), latest, or a step',
  )
  add('--batch_size', type=int, help='default: the one of the config')
  add('--on_bad_row', choices=('stop', 'skip'), default='stop')
  add('--json', metavar='FILE', help='write the JSON there, too')
  add(
    '--compare',
    metavar='WORKDIR',
    help='another run: both are scored on the same rows, and it is said '
    'whether their difference is more than chance',
  )
  job.add_arguments(parser)
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


class _Opened(NamedTuple):
  """A run, its checkpoint and the data to score."""

  folder: Path
  task: 'Task'
  step: int
  checkpoints: 'Checkpoints'
  examined: 'Examined'
  mesh: 'Mesh'

  def state(self) -> 'TrainState':
    """The checkpoint, without what only training needs."""
    from dlrm_jax.training.state import abstract_state

    abstract = abstract_state(self.task)
    return self.checkpoints.restore_for_evaluation(self.step, abstract)


def _open(folder: Path, arguments: argparse.Namespace) -> _Opened:
  from dlrm_jax import sharding
  from dlrm_jax.build import restored
  from dlrm_jax.checkpoint.checkpoints import Checkpoints
  from dlrm_jax.cluster import agreement
  from dlrm_jax.configs import default
  from dlrm_jax.run import room, workdir

  defaults = default.get_config().to_dict()
  trained = restored.trained(*workdir.read_settings(folder, defaults))
  layout = trained.task.collection.layout
  size = arguments.batch_size
  if size is None:
    size = trained.eval_batch_size
  checkpoints = Checkpoints(
    folder / 'checkpoints', layout, objective=trained.objective
  )
  step = _checkpoint(arguments.checkpoint, checkpoints.best, checkpoints.latest)
  step = agreement.from_first(step)  # a run that goes on may make better ones
  examined = restored.examined(
    trained, arguments.data, arguments.split, size, arguments.on_bad_row
  )
  mesh = sharding.choose_mesh(layout.shards, {'--batch_size': size})
  with sharding.use(mesh):
    room.check_evaluation_room(trained.task, size)
  return _Opened(folder, trained.task, step, checkpoints, examined, mesh)


def _scored(
  folder: Path, arguments: argparse.Namespace
) -> tuple['Examined', 'Compared']:
  """A run, and what it says of every row."""
  from dlrm_jax import sharding
  from dlrm_jax.run.comparison import Compared
  from dlrm_jax.run.evaluation import Evaluator

  run = _open(folder, arguments)
  with sharding.use(run.mesh):
    scored = Evaluator(run.task).keep(run.state(), run.examined.batches)
  return run.examined, Compared(str(folder), run.step, scored)


def _compare(arguments: argparse.Namespace) -> None:
  """Scores two runs on the same rows, prints what tells them apart."""
  from dlrm_jax.run.comparison import compare

  if arguments.distributed or arguments.coordinator:
    raise InputError('--compare: expected one process; leave out its flags')
  examined, a = _scored(Path(arguments.workdir), arguments)
  other, b = _scored(Path(arguments.compare), arguments)
  lines, result = compare(examined.name, a, b)
  met, of_b = examined.report(), other.report()
  _check_scored(result['metrics'], examined.name, met.skipped)
  print(*dict.fromkeys([*met.lines, *of_b.lines]), *lines, sep='\n')
  said = {'workdir': a.workdir, 'step': a.step, 'data': examined.name}
  _print_json(said | met.said | result, arguments.json)


def _print_json(result: Mapping[str, Any], file: str | None) -> None:
  """Prints the result as one line, and writes it where that is asked for."""
  from dlrm_jax.cluster import agreement

  text = files.to_json(result)
  print(text)
  if file and agreement.first():
    files.write_text(Path(file), text + '\n')


def _evaluate(arguments: argparse.Namespace) -> None:
  """Restores, evaluates, prints."""
  from dlrm_jax import sharding
  from dlrm_jax.run.evaluation import ENSEMBLE, Evaluator
  from dlrm_jax.run.scores import by_head, score_table, scores_of
  from dlrm_jax.run.scoring import undefined_line
  from dlrm_jax.training.nodes import divergence, node_count, node_table

  run = _open(Path(arguments.workdir), arguments)
  name, batches = run.examined.name, run.examined.batches
  result = {'workdir': str(run.folder), 'step': run.step, 'data': name}
  with sharding.use(run.mesh):
    state, evaluate = run.state(), Evaluator(run.task)
    if node_count(run.task):
      of_nodes = evaluate.nodes(state, batches)
      apart = divergence(run.task, state)
      nodes = {node: scores_of(t) for node, t in of_nodes.items()}
      tallies = of_nodes[ENSEMBLE]
      tables = [node_table(nodes, apart)]
      result |= {'nodes': nodes, 'divergence': apart}
    else:
      tallies = evaluate(state, batches)
      heads = by_head(name, tallies).items()
      tables = [score_table(head, scores, {}) for head, scores in heads]
  met = run.examined.report()
  for head, scores in by_head(name, tallies).items():
    _check_scored(scores, head, met.skipped)
    if line := undefined_line(head, scores['examples'], scores['clicks']):
      tables.append(line)
  print(*met.lines, f'{run.folder}, checkpoint of step {run.step:,}', sep='\n')
  print(*tables, sep='\n')
  scores = scores_of(tallies)
  _print_json(result | met.said | {'metrics': scores}, arguments.json)


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Joins the other processes, if there are any, and evaluates."""
  arguments = _parser().parse_args(split_values(argv, ('--data',)))
  if arguments.json:
    files.check_writable(Path(arguments.json), f'--json={arguments.json}')
  heap.keep_freed_memory()
  if arguments.compare:
    _compare(arguments)
    return
  with job.joined(arguments):
    _evaluate(arguments)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
