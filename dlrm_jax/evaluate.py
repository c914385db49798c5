r"""Evaluates a checkpoint on any split, prepared set or raw file.

  python -m dlrm_jax.evaluate --workdir=runs/kaggle
  python -m dlrm_jax.evaluate --workdir=runs/kaggle --data=new_log.txt
  python -m dlrm_jax.evaluate --workdir=runs/new --compare=runs/old
  python -m dlrm_jax.evaluate --workdir=runs/ncf --data=test.rating \
    --candidates=test.negative

Raw files and folders of them are read with the vocabularies of the training
data; ids that training never saw become the unknown row and are counted. In a
job of many hosts each host runs this command, with the same flags as in
training.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlrm_jax import heap
from dlrm_jax.callable_module import make_callable, shown
from dlrm_jax.cluster import job
from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.run import output

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from dlrm_jax.build.chosen import ChosenRun
  from dlrm_jax.build.restored import Examined
  from dlrm_jax.run.comparison import Compared
  from dlrm_jax.run.members import Members


def _parser() -> Parser:
  parser = Parser(prog='python -m dlrm_jax.evaluate', description=__doc__)
  parser.add_required('--workdir', 'DIR', 'folder of the training run')
  add = parser.add_argument
  parser.add_data(
    'a prepared set, or raw files and folders of them (default: the training '
    'data)'
  )
  add('--split', help='split of prepared data (default: test)')
  parser.add_checkpoint()
  add(
    '--batch_size',
    type=int,
    metavar='N',
    help='examples at a time (default: train.eval_batch_size of the config)',
  )
  parser.add_on_bad_row()
  add(
    '--candidates',
    metavar='FILE',
    help='rank the item of each line of --data among the candidates in the '
    'same line of FILE, or among all items: --candidates=catalogue',
  )
  output.add_json(parser)
  add(
    '--compare',
    metavar='WORKDIR',
    help='another run: both are scored on the same rows, and the output says '
    'whether their difference is beyond chance',
  )
  job.add_arguments(parser)
  return parser


class _Opened(NamedTuple):
  """A run, its checkpoint and the data to score.

  Attributes:
    chosen: the run and its checkpoint.
    examined: the data to score.
    mesh: the devices.
  """

  chosen: 'ChosenRun'
  examined: 'Examined'
  mesh: 'Mesh'


def _open(folder: Path, arguments: argparse.Namespace) -> _Opened:
  from dlrm_jax import sharding
  from dlrm_jax.build import ranked, restored
  from dlrm_jax.build.chosen import choose
  from dlrm_jax.configs import default
  from dlrm_jax.run import room

  chosen = choose(folder, arguments.checkpoint, default.get_config().to_dict())
  run, size = chosen.run, arguments.batch_size
  if size is None:
    size = run.eval_batch_size
  data, split, how = arguments.data, arguments.split, arguments.on_bad_row
  if arguments.candidates is None:
    examined = restored.examined(run, data, split, size, how)
  else:
    examined = ranked.ranked(run, data, split, arguments.candidates, size, how)
  size = examined.batch_size
  shards = run.task.collection.layout.shards
  mesh = sharding.choose_mesh(shards, {'--batch_size': size})
  with sharding.use(mesh):
    room.check_evaluation_room(run.task, size)
  return _Opened(chosen, examined, mesh)


def _scored(
  folder: Path, arguments: argparse.Namespace
) -> tuple['Examined', 'Compared']:
  """The data of a run and the scores of its rows."""
  from dlrm_jax import sharding
  from dlrm_jax.run.comparison import Compared
  from dlrm_jax.run.evaluation import Evaluator

  chosen, examined, mesh = _open(folder, arguments)
  task = chosen.run.task
  with sharding.use(mesh):
    scored = Evaluator(task).keep(chosen.state(), examined.batches)
  labels = [head.name for head in task.heads]
  return examined, Compared(str(folder), chosen.step, scored, labels)


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
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
  report.check(result['metrics']['examples'], examined.name)
  notes = dict.fromkeys([*report.lines, *other_report.lines])
  output.print_lines([*notes, *lines], arguments.json)
  names = {
    'workdir': a.workdir,
    'step': a.step,
    'data': examined.name,
    'label': a.labels[0],
  }
  return names | report.said | result


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


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
  """Restores the checkpoint, scores the data and prints the metrics."""
  from dlrm_jax import sharding
  from dlrm_jax.metrics.objective import RANKED
  from dlrm_jax.run.evaluation import ENSEMBLE, Evaluator
  from dlrm_jax.run.members import score_members
  from dlrm_jax.run.scores import by_head, calibration_groups, flat_scores

  chosen, examined, mesh = _open(Path(arguments.workdir), arguments)
  name, ranks = examined.name, arguments.candidates is not None
  data, task = (examined.batches, examined.lists), chosen.run.task
  with sharding.use(mesh):
    state, evaluate = chosen.state(), Evaluator(task)
    members = score_members(task, evaluate, state, *data)
    if members is None:
      scored = {ENSEMBLE: evaluate.ranked(state, *data)}
    else:
      scored = members.scored
  if ranks:  # a list in pieces repeats its positive, which a tally counts again
    scored = {k: scores._replace(tallies={}) for k, scores in scored.items()}
  of_each = {k: by_head(*scores) for k, scores in scored.items()}
  of_heads, tallies = of_each[ENSEMBLE], scored[ENSEMBLE].tallies
  groups = {k: calibration_groups(tally) for k, tally in tallies.items()}
  report = examined.report()
  counts = [x['lists' if ranks else 'examples'] for x in of_heads.values()]
  report.check(max(counts), name)
  checkpoint = f'{chosen.folder}, checkpoint of step {chosen.step:,}'
  tables = _tables(name, members, of_each, groups)
  output.print_lines([*report.lines, checkpoint, *tables], arguments.json)
  result: dict[str, Any] = {
    'workdir': str(chosen.folder),
    'step': chosen.step,
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
  return result | {'metrics': metrics}


def _result(arguments: argparse.Namespace) -> dict[str, Any]:
  return (_compare if arguments.compare else _evaluate)(arguments)


def evaluate(workdir: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
  """Evaluates a checkpoint and prints its metrics, as the command does.

  Args:
    workdir: folder of the training run.
    **options: those of the command without dashes, such as `data=['new.txt']`,
      `split='validation'`, `checkpoint='latest'`; `json='FILE'` writes the
      result to a file, too, and `json=True` prints nothing else. A job of
      several processes is for the command alone.

  Returns:
    The object that `--json` of the command writes.

  Raises:
    InputError: an option, the run or the data is wrong.
  """
  for name in job.JobFlags._fields:
    if name in options:
      raise InputError(
        f'{name}={shown(options[name])}: this function is one process; a job '
        'of several runs python -m dlrm_jax.evaluate'
      )
  arguments = _parser().read({'workdir': workdir, **options})
  output.check_json(arguments.json)
  result = _result(arguments)
  if arguments.json is not None:
    output.print_json(result, arguments.json)
  return result


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Joins the other processes of the job and evaluates."""
  arguments = _parser().parse_args(split_values(argv, ('--data',)))
  output.check_json(arguments.json)
  heap.keep_freed_memory()
  from dlrm_jax.program_cache import keep_programs

  keep_programs()
  if arguments.compare:
    output.print_json(_result(arguments), arguments.json)
    return
  with job.joined(arguments):
    output.print_json(_result(arguments), arguments.json)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


make_callable(__name__, evaluate)

if __name__ == '__main__':
  sys.exit(run())
