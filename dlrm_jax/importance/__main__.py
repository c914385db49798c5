r"""Measures how much a model needs each feature.

  python -m dlrm_jax.importance --workdir=runs/kaggle
  python -m dlrm_jax.importance --workdir=runs/kaggle --data=new_log.txt

The values of each feature are permuted over the examples, and the model scores
them again: by how much do log-loss and AUC get worse? A feature is a dense
column or a whole sparse column. The result is printed, and written as
importance.json and as a section of report.html in the workdir. The command is
one process, which uses all of its devices.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dlrm_jax import files, heap
from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.run import output

if TYPE_CHECKING:
  from dlrm_jax.build.chosen import ChosenRun
  from dlrm_jax.build.restored import Met
  from dlrm_jax.build.trained import Trained
  from dlrm_jax.report.importance import LabelLosses
  from dlrm_jax.run.sample import Sample

_SPLIT = 'validation'
_REPEATS, _EXAMPLES = 5, 200_000


def _parser() -> argparse.ArgumentParser:
  parser = Parser(prog='python -m dlrm_jax.importance', description=__doc__)
  parser.add_required('--workdir', 'DIR', 'folder of the training run')
  add = parser.add_argument
  parser.add_data(
    'a prepared set, or raw files and folders of them (default: the training '
    'data)'
  )
  add('--split', help=f'split of prepared data (default: {_SPLIT})')
  parser.add_checkpoint()
  add(
    '--repeats',
    type=int,
    default=_REPEATS,
    metavar='N',
    help='permutations of each feature (default: %(default)s)',
  )
  add(
    '--examples',
    type=int,
    default=_EXAMPLES,
    metavar='N',
    help='most examples to score, evenly spread over the data; they are held '
    'in memory (default: %(default)s)',
  )
  add('--seed', type=int, default=0, help='of the permutations (default: 0)')
  parser.add_on_bad_row()
  output.add_json(parser)
  return parser


def _check(flags: argparse.Namespace) -> None:
  """Checks the flags before the work."""
  for name, least in (('repeats', 1), ('examples', 1), ('seed', 0)):
    value = getattr(flags, name)
    if value < least:
      raise InputError(f'--{name}={value}: expected {least} or more')
  output.check_json(flags.json)


class _Sampled(NamedTuple):
  """Examples of some data.

  Attributes:
    name: name of the data.
    sample: the examples.
    met: what the reader found.
  """

  name: str
  sample: 'Sample'
  met: 'Met'


def _sample(flags: argparse.Namespace, run: 'Trained') -> '_Sampled':
  """Takes the examples of the data that the flags name."""
  from dlrm_jax.build.restored import examined
  from dlrm_jax.data.folder import is_set
  from dlrm_jax.run.sample import take_sample

  data, split, how = flags.data, flags.split, flags.on_bad_row
  size = run.eval_batch_size
  opened = examined(run, data, split, size, how, default=_SPLIT)
  name = opened.name
  if data and is_set(data):
    name = f'{data[0]}, split {name}'
  sample = take_sample(opened.batches, flags.examples)
  met = opened.report()
  met.check(sample.of if sample else 0, name)
  assert sample is not None
  return _Sampled(name, sample, met)


def _measured(
  chosen: 'ChosenRun', sample: 'Sample', flags: argparse.Namespace
) -> 'dict[str, LabelLosses]':
  """What each label loses by each feature."""
  from dlrm_jax import sharding
  from dlrm_jax.data.schema import Schema
  from dlrm_jax.importance.permuted import Plan, measure
  from dlrm_jax.run import room
  from dlrm_jax.run.sample_logits import batch_size, scorer

  run, examples = chosen.run, sample.examples
  task, schema = run.task, Schema.from_json(run.data)
  plan = Plan.of(examples, schema, flags.repeats, flags.seed)
  output.print_lines([f'plan      {plan.line}'], flags.json)
  devices = sharding.choose_devices(task.collection.layout.shards)
  size = batch_size(len(examples.labels), run.eval_batch_size, len(devices))
  with sharding.use(sharding.make_mesh(devices)):
    room.check_evaluation_room(task, size)
    score = scorer(task, chosen.state(), schema, size)
    return measure(plan, schema.labels, score)


def _importance(flags: argparse.Namespace) -> None:
  """Restores the checkpoint, measures, prints and writes."""
  from dlrm_jax.build.chosen import choose
  from dlrm_jax.configs import default
  from dlrm_jax.report import importance, run_page
  from dlrm_jax.run.scores import named

  folder = Path(flags.workdir)
  chosen = choose(folder, flags.checkpoint, default.get_config().to_dict())
  report = folder / run_page.REPORT
  for path in (folder / importance.FILE, report):
    files.check_writable(path, '--workdir')
  name, sample, met = _sample(flags, chosen.run)
  count = len(sample.examples.labels)
  taken = 'all' if count == sample.of else f'of {sample.of:,}, evenly spread'
  lines = [
    *met.lines,
    f'run       {folder}, checkpoint of step {chosen.step:,}',
    f'data      {name}: {count:,} examples, {taken}',
  ]
  output.print_lines(lines, flags.json)
  labels = _measured(chosen, sample, flags)
  found = importance.Importance(
    chosen.step, name, count, flags.repeats, flags.seed, labels
  )
  importance.write(folder, found)
  where = importance.FILE
  if report.exists():
    run_page.add_importance(report, found)
    where = run_page.REPORT
  tables = [
    line
    for title, losses in named(name, labels).items()
    for line in importance.table_lines(title, losses)
  ]
  lines = [*tables, *found.notes, f'see {folder / where}']
  output.print_lines(lines, flags.json)
  if flags.json is not None:
    result = {'workdir': str(folder), **found.to_json(), **met.said}
    output.print_json(result, flags.json)


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Checks the flags and measures."""
  flags = _parser().parse_args(split_values(argv, ('--data',)))
  _check(flags)
  heap.keep_freed_memory()
  from dlrm_jax.program_cache import keep_programs

  keep_programs()
  _importance(flags)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
