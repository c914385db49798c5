r"""Evaluates a checkpoint on any split, prepared set or raw file.

  python -m dlrm_jax.evaluate --workdir=runs/kaggle
  python -m dlrm_jax.evaluate --workdir=runs/kaggle --data=new_log.txt
  python -m dlrm_jax.evaluate --workdir=runs/new --compare=runs/old
  python -m dlrm_jax.evaluate --workdir=runs/ncf --data=test.rating \
    --candidates=test.negative

Raw files and folders of them are read with the vocabularies of the training
data; ids that training never saw become the unknown row and are counted. In a
job of many hosts each host runs this command, with the same flags as train.py.
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
  from dlrm_jax.checkpoint.saved import Saved
  from dlrm_jax.run.comparison import Compared
  from dlrm_jax.run.members import Members
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
    help='a prepared set, or raw files and folders of them (default: the '
    'training data)',
  )
  add('--split', help='split of prepared data (default: test)')
  add(
    '--checkpoint',
    default='best',
    help='best (by the objective), latest, or a step (default: best)',
  )
  add(
    '--batch_size',
    type=int,
    metavar='N',
    help='examples at a time (default: train.eval_batch_size of the config)',
  )
  add(
    '--on_bad_row',
    choices=('stop', 'skip'),
    default='stop',
    help='stop at a bad row (default), or skip and count it',
  )
  add(
    '--candidates',
    metavar='FILE',
    help='rank the item of each line of --data among the candidates in the '
    'same line of FILE, or among all items: --candidates=catalogue',
  )
  add(
    '--json',
    nargs='?',
    const='',
    metavar='FILE',
    help='file to write the JSON to; without a name, only the JSON is printed',
  )
  add(
    '--compare',
    metavar='WORKDIR',
    help='another run: both are scored on the same rows, and the output says '
    'whether their difference is beyond chance',
  )
  job.add_arguments(parser)
  return parser


def _check_scored(count: float, name: str, skipped: Iterable[str]) -> None:
  """Raises an error with the skipped rows where no example was scored."""
  if count:
    return
  kinds = [line for line in skipped if not line.startswith(' ')]
  why = ', '.join(line.removesuffix('; first:') for line in kinds)
  raise InputError(
    f'{name}: no row is left to evaluate on: '
    f'{why or "found none, expected at least one"}'
  )


class _Opened(NamedTuple):
  """A run, its checkpoint and the data to score.

  Attributes:
    folder: the workdir.
    task: the task of the run.
    step: step of the checkpoint.
    saved: all checkpoints of the run.
    examined: the data to score.
    mesh: the devices.
  """

  folder: Path
  task: 'Task'
  step: int
  saved: 'Saved'
  examined: 'Examined'
  mesh: 'Mesh'

  def state(self) -> 'TrainState':
    """The state of the checkpoint without the optimizers' states."""
    from dlrm_jax.training.state import abstract_state

    abstract = abstract_state(self.task)
    return self.saved.restore_for_evaluation(self.step, abstract)


def _open(folder: Path, arguments: argparse.Namespace) -> _Opened:
  from dlrm_jax import sharding
  from dlrm_jax.build import ranked, restored
  from dlrm_jax.build.trained import trained
  from dlrm_jax.checkpoint.saved import Saved
  from dlrm_jax.cluster import agreement
  from dlrm_jax.configs import default
  from dlrm_jax.run import room, workdir

  defaults = default.get_config().to_dict()
  run = trained(*workdir.read_settings(folder, defaults))
  layout = run.task.collection.layout
  size = arguments.batch_size
  if size is None:
    size = run.eval_batch_size
  saved = Saved(folder / 'checkpoints', layout, run.objective)
  step = saved.named(arguments.checkpoint)
  step = agreement.from_first(step)  # a live run may have a better one by now
  data, split, how = arguments.data, arguments.split, arguments.on_bad_row
  if arguments.candidates is None:
    examined = restored.examined(run, data, split, size, how)
  else:
    examined = ranked.ranked(run, data, split, arguments.candidates, size, how)
  size = examined.batch_size
  mesh = sharding.choose_mesh(layout.shards, {'--batch_size': size})
  with sharding.use(mesh):
    room.check_evaluation_room(run.task, size)
  return _Opened(folder, run.task, step, saved, examined, mesh)


def _scored(
  folder: Path, arguments: argparse.Namespace
) -> tuple['Examined', 'Compared']:
  """The data of a run and the scores of its rows."""
  from dlrm_jax import sharding
  from dlrm_jax.run.comparison import Compared
  from dlrm_jax.run.evaluation import Evaluator

  run = _open(folder, arguments)
  with sharding.use(run.mesh):
    scored = Evaluator(run.task).keep(run.state(), run.examined.batches)
  labels = [head.name for head in run.task.heads]
  return run.examined, Compared(str(folder), run.step, scored, labels)


def _compare(arguments: argparse.Namespace) -> None:
  """Scores two runs on the same rows and prints their difference."""
  from dlrm_jax.run.comparison import compare

  if arguments.distributed or arguments.coordinator:
    raise InputError('--compare: expected one process; leave out its flags')
  if arguments.candidates is not None:
    raise InputError(
      f'--candidates={arguments.candidates} has no effect beside --compare'
    )
  examined, a = _scored(Path(arguments.workdir), arguments)
  other, b = _scored(Path(arguments.compare), arguments)
  lines, result = compare(examined.name, a, b)
  report, other_report = examined.report(), other.report()
  _check_scored(result['metrics']['examples'], examined.name, report.skipped)
  notes = dict.fromkeys([*report.lines, *other_report.lines])
  _print_lines([*notes, *lines], arguments.json)
  names = {
    'workdir': a.workdir,
    'step': a.step,
    'data': examined.name,
    'label': a.labels[0],
  }
  _print_json(names | report.said | result, arguments.json)


def _print_lines(lines: Iterable[str], json: str | None) -> None:
  """Prints lines for people, unless --json asks for nothing but JSON."""
  if json != '':
    print(*lines, sep='\n')


def _print_json(result: Mapping[str, Any], file: str | None) -> None:
  """Prints the result as a line of JSON, and writes it to a file if given."""
  from dlrm_jax.cluster import agreement

  text = files.to_json(result)
  print(text)
  if file and agreement.first():
    files.write_text(Path(file), text + '\n')


def _tables(
  name: str,
  members: 'Members | None',
  of_each: Mapping[str, Mapping[str, Mapping[str, float]]],
  groups: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[str]:
  """What was scored, as text.

  Args:
    name: name of the data.
    members: the members of an ensemble; None: there is one model.
    of_each: member or `ENSEMBLE` -> head -> metrics.
    groups: head -> calibration by group; empty where lists alone are ranked.
  """
  from dlrm_jax.run import scores as text
  from dlrm_jax.run.evaluation import ENSEMBLE
  from dlrm_jax.run.scoring import undefined_lines

  tables = []
  titled = text.named(name, of_each[ENSEMBLE])
  if not groups:
    tables += [text.ranked_table(*x) for x in titled.items()]
  else:
    tables += [text.score_table(*x, {}) for x in titled.items()]
  if members is not None:
    tables += text.member_tables(members.kind, of_each, members.divergence)
  if not groups:
    return tables
  tables += [
    text.calibration_table(*x) for x in text.named(name, groups).items()
  ]
  return tables + [line for x in titled.items() for line in undefined_lines(*x)]


def _evaluate(arguments: argparse.Namespace) -> None:
  """Restores the checkpoint, scores the data and prints the metrics."""
  from dlrm_jax import sharding
  from dlrm_jax.metrics.objective import RANKED
  from dlrm_jax.run.evaluation import ENSEMBLE, Evaluator
  from dlrm_jax.run.members import score_members
  from dlrm_jax.run.scores import by_head, calibration_groups, flat_scores

  run = _open(Path(arguments.workdir), arguments)
  name, ranks = run.examined.name, arguments.candidates is not None
  data = run.examined.batches, run.examined.lists
  with sharding.use(run.mesh):
    state, evaluate = run.state(), Evaluator(run.task)
    members = score_members(run.task, evaluate, state, *data)
    if members is None:
      scored = {ENSEMBLE: evaluate.ranked(state, *data)}
    else:
      scored = members.scored
  if ranks:  # a list in pieces repeats its positive, which a tally counts again
    scored = {k: scores._replace(tallies={}) for k, scores in scored.items()}
  of_each = {k: by_head(*scores) for k, scores in scored.items()}
  of_heads, tallies = of_each[ENSEMBLE], scored[ENSEMBLE].tallies
  groups = {k: calibration_groups(tally) for k, tally in tallies.items()}
  report = run.examined.report()
  counts = [x['lists' if ranks else 'examples'] for x in of_heads.values()]
  _check_scored(max(counts), name, report.skipped)
  checkpoint = f'{run.folder}, checkpoint of step {run.step:,}'
  tables = _tables(name, members, of_each, groups)
  _print_lines([*report.lines, checkpoint, *tables], arguments.json)
  result: dict[str, Any] = {
    'workdir': str(run.folder),
    'step': run.step,
    'data': name,
  }
  metrics = flat_scores(of_heads)
  if ranks:
    result['candidates'] = arguments.candidates
    result |= {metric: metrics[metric] for metric in RANKED}
  if members is not None:
    apart = members.divergence
    result |= {'divergence': apart} if apart else {}
    result[members.kind] = {k: flat_scores(x) for k, x in of_each.items()}
  result |= report.said
  result |= flat_scores(
    {k: {'calibration_groups': x} for k, x in groups.items()}
  )
  _print_json(result | {'metrics': metrics}, arguments.json)


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Joins the other processes of the job and evaluates."""
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
