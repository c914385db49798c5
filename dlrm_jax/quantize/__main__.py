r"""Keeps a trained model in fewer bits, and says what that costs.

  python -m dlrm_jax.quantize --workdir=runs/kaggle --tables=int8 \
    --output=runs/kaggle_int8
  python -m dlrm_jax.quantize --workdir=runs/kaggle \
    --tables='C3=int4,*=int8' --output=runs/kaggle_mixed
  python -m dlrm_jax.quantize --workdir=runs/kaggle --memory=10MB \
    --output=runs/kaggle_10mb
  python -m dlrm_jax.quantize --workdir=runs/kaggle --layers=int8 \
    --calibrate=validation --output=runs/kaggle_int8_layers
  python -m dlrm_jax.quantize --workdir=runs/kaggle --sparsity=0.8 \
    --block=1x16 --output=runs/kaggle_sparse
  python -m dlrm_jax.quantize --workdir=runs/kaggle --report=kaggle.md

The output is a workdir that evaluate, predict, load and export take; it has no
optimizer states, so training cannot go on from it. --memory chooses the
storage of each feature so that the tables fit and the log-loss grows least.
--layers=int8 rounds the kernels of layers, too, and multiplies integers; with
--calibrate, layers have limits of their inputs that were found on a split.
--sparsity prunes kernels, and multiplies without their zeros where it measures
that to be faster. --report writes no model: it measures all choices on a split
and writes a table and, beside it, a picture and JSON.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlrm_jax import files, heap
from dlrm_jax.config.fields import read_size
from dlrm_jax.config.parser import split_values
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.quantization.method import Method
from dlrm_jax.quantize.flags import (
  BATCH,
  BLOCK,
  FASTEST_BLOCK,
  LIMITS,
  block_of,
  check,
  files_of,
  parser_of,
)

if TYPE_CHECKING:
  from dlrm_jax.build.chosen import ChosenRun
  from dlrm_jax.build.storages import Choice
  from dlrm_jax.build.trained import Trained
  from dlrm_jax.data.schema import Block
  from dlrm_jax.quantize.model import LayerChoice, Model


def _features(chosen: 'ChosenRun') -> list[str]:
  return [column['name'] for column in chosen.run.data['sparse']]


def _possible(chosen: 'ChosenRun') -> Iterator[tuple[str, 'Trained']]:
  """The storages that suit the widths of all tables, and the run with each."""
  from dlrm_jax.embedding.low_precision import STORAGES
  from dlrm_jax.quantize.model import run_with

  for storage in STORAGES:
    try:
      run = run_with(chosen, dict.fromkeys(_features(chosen), storage))
    except InputError as error:
      print(f'left out  {storage}: {error}', flush=True)
    else:
      yield storage, run


def _within(
  chosen: 'ChosenRun',
  examples: 'Block',
  runs: Mapping[str, 'Trained'],
  budget: int,
) -> 'Choice':
  """The storages that fit into a budget and cost the least log-loss.

  No feature gets more bytes than it has.
  """
  from tqdm import tqdm

  from dlrm_jax.quantize import budget as budgets
  from dlrm_jax.quantize.examples import batches_of
  from dlrm_jax.quantize.model import quantized
  from dlrm_jax.sharding import send

  features = _features(chosen)

  def kept_as(storage: str) -> 'Model':
    return quantized(chosen, dict.fromkeys(features, storage))

  batches = [send(batch) for batch in batches_of(chosen, examples)]
  others = [storage for storage in runs if storage != 'float32']
  with tqdm(desc='expected losses', total=len(others), disable=None) as bar:
    losses = budgets.expected_losses(
      kept_as('float32'), batches, others, kept_as, bar.update
    )
  losses['float32'] = dict.fromkeys(features, 0.0)
  now = chosen.run.task.collection.features
  options = {
    group: [
      budgets.Option(
        storage, size, sum(losses[storage][column] for column in group)
      )
      for storage, run in runs.items()
      for size in [budgets.bytes_of(run.task.collection.features, group)]
      if size <= budgets.bytes_of(now, group)
    ]
    for group in budgets.groups_of(now)
  }
  return budgets.cheapest(options, budget)


def _layers(
  flags: argparse.Namespace, chosen: 'ChosenRun'
) -> 'LayerChoice | None':
  """How layers are to multiply; None: as they do."""
  from dlrm_jax.optim.pruning import Pruning
  from dlrm_jax.quantize.model import LayerChoice
  from dlrm_jax.quantize.sparse import SparseChoice

  dtype, sparse = chosen.run.config.model.compute_dtype, None
  # --memory needs gradients, which products of codes do not have.
  if dtype == 'int8' and (
    flags.report or flags.memory or flags.layers or flags.sparsity is not None
  ):
    raise InputError(
      f'the layers of {chosen.folder} are int8 already, and have lost their '
      f'floats; give the run that it was made of'
    )
  if flags.sparsity is not None:
    pruning = Pruning(flags.sparsity, block_of(flags, BLOCK))
    sparse = SparseChoice(pruning, flags.batch or BATCH)
  elif flags.layers is None:
    return None
  calibrates = flags.calibrate is not None
  method = Method(flags.limits or LIMITS) if calibrates else None
  return LayerChoice(flags.layers or dtype, method, flags.outliers, sparse)


def _write(
  flags: argparse.Namespace,
  chosen: 'ChosenRun',
  choice: 'Choice',
  layers: 'LayerChoice | None',
  examples: 'Block | None',
  defaults: Mapping[str, Any],
) -> None:
  """Writes the model of a choice, and says what it is.

  Args:
    flags: what the user asks for.
    chosen: the run and its checkpoint.
    choice: the storages.
    layers: how layers multiply; None: as they do.
    examples: to calibrate layers on.
    defaults: default of every field of a config.
  """
  from dlrm_jax.build.storages import storages_of
  from dlrm_jax.quantize import outliers
  from dlrm_jax.quantize.examples import batches_of
  from dlrm_jax.quantize.model import (
    layer_bytes,
    quantized,
    table_bytes,
    write,
  )
  from dlrm_jax.quantize.sparse import lines_of
  from dlrm_jax.text import human

  output = Path(flags.output)
  batches = [] if examples is None else batches_of(chosen, examples)
  model = quantized(chosen, choice, layers, batches)
  with files.beside(output) as work:
    write(model, work / 'workdir', chosen, defaults)
    files.publish(work / 'workdir', output.absolute())
  said = []
  if layers is not None and layers.outliers:
    without = quantized(chosen, choice, layers._replace(outliers=0), batches)
    floats = quantized(chosen, choice)
    said = outliers.lines_of(model, without, floats, batches)
  if layers is not None and layers.dtype == 'int8' and layers.method is None:
    said.append(
      'note      CPUs gain little from limits of each example: add --calibrate'
    )
  before, after = table_bytes(chosen.run), model.table_bytes
  if {*storages_of(chosen.run.config, list(choice)).values()} != {'float32'}:
    print(
      f'note      the tables of {chosen.folder} are of fewer bits already: '
      f'what they lost is lost, and errors add up'
    )
  by_storage: dict[str, list[str]] = {}
  for feature, storage in choice.items():
    by_storage.setdefault(storage, []).append(feature)
  print(
    *(f'{name:<10}{", ".join(of_one)}' for name, of_one in by_storage.items()),
    f'tables    {human(before)} -> {human(after)}, {after / before:.2f} of it',
    f'layers    {human(layer_bytes(chosen.run))} -> '
    f'{human(model.layer_bytes)}, multiply '
    f'{model.run.config.model.compute_dtype}',
    *said,
    *(lines_of(model.sparse, flags.batch or BATCH) if model.sparse else []),
    f'{output}: evaluate it with: python -m dlrm_jax.evaluate '
    f'--workdir={output} --compare={chosen.folder}',
    sep='\n',
  )


def _report(
  flags: argparse.Namespace,
  chosen: 'ChosenRun',
  examples: 'Block',
  runs: Mapping[str, 'Trained'],
) -> None:
  """Measures all choices, and writes what was found."""
  from tqdm import tqdm

  from dlrm_jax.build.storages import Choice
  from dlrm_jax.data.schema import Schema, take
  from dlrm_jax.metrics.paired import Scored
  from dlrm_jax.optim.pruning import kernels_of
  from dlrm_jax.quantize import kinds, report
  from dlrm_jax.quantize.examples import batches_of
  from dlrm_jax.quantize.model import Model, quantized, table_bytes
  from dlrm_jax.run.sample_logits import batch_size, scorer
  from dlrm_jax.training.state import abstract_params

  # What was chosen on examples is not scored on them.
  seen, examples = (take(examples, slice(i, None, 2)) for i in range(2))
  if not len(examples.labels):
    raise InputError('--report needs 2 examples or more; name data with more')
  features, schema = _features(chosen), Schema.from_json(chosen.run.data)
  choices: dict[str, Choice] = {
    name: dict.fromkeys(features, name) for name in runs
  }
  sizes = {name: table_bytes(run) for name, run in runs.items()}
  for name, part in (('a quarter', 4), ('a half', 2)):
    if min(sizes.values()) <= (budget := sizes['float32'] // part):
      choice = _within(chosen, seen, runs, budget)
      choices[f'mixed, {name}'] = choice
      break
  size = batch_size(len(examples.labels), chosen.run.eval_batch_size, 1)

  def score(model: Model) -> Scored:
    logits = scorer(model.run.task, model.state, schema, size)(examples)
    labels, weights = examples.labels[:, 0], examples.weights
    if weights is None:
      weights = np.ones(len(labels), np.float32)
    known = ~np.isnan(labels)
    return Scored(logits[known, 0], labels[known], weights[known])

  batches = batches_of(chosen, seen)
  models = {
    (tables, words): functools.partial(
      quantized, chosen, choice, layers, batches
    )
    for words, layers in kinds.of_numbers().items()
    for tables, choice in choices.items()
  }
  pruned = {}
  if kernels_of(abstract_params(chosen.run.task)):
    pruned = kinds.sparse(block_of(flags, FASTEST_BLOCK), flags.batch or BATCH)
    models |= {
      ('float32', words): functools.partial(
        quantized, chosen, choices['float32'], layers
      )
      for words, layers in pruned.items()
    }
  with tqdm(desc='measuring', total=len(models), disable=None) as bar:
    labels = report.labels_of(models, score, examples, bar.update)
  table, picture, numbers = files_of(flags.report)
  lines = report.lines_of(labels)
  title = f'{chosen.folder.name}, checkpoint of step {chosen.step:,}'
  note = (
    f'{len(examples.labels):,} examples; changes are against the first row, '
    f'on the same examples, ± one standard error. Limits of layers, and mixed '
    f'storages, were chosen on {len(seen.labels):,} others. Latency: median of '
    f'calls that take and give NumPy arrays; only those of equal tables took '
    f'turns, and compare.'
  )
  for words in sorted({x.engine for x in labels} - {''}):
    note += f' Layers of {words}.'
  text = [f'# {title}', '', note, '', *lines, '', f'![]({picture.name})', '']
  files.write_text(table, '\n'.join(text))
  # What layers lose that are pruned after training would hide all else.
  report.draw([x for x in labels if x.layers not in pruned], picture)
  files.write_json(numbers, report.as_json(labels))
  print(*lines, f'see {table} and {picture}', sep='\n')


def _quantize(flags: argparse.Namespace) -> None:
  """Does what the flags ask for."""
  from dlrm_jax.build.chosen import choose
  from dlrm_jax.build.storages import storages_of
  from dlrm_jax.configs import default
  from dlrm_jax.quantize.choice import read_choice
  from dlrm_jax.quantize.examples import sample

  defaults = default.get_config().to_dict()
  if flags.output:
    files.check_new(Path(flags.output), f'--output={flags.output}')
  chosen = choose(Path(flags.workdir), flags.checkpoint, defaults)
  features = _features(chosen)
  choice = storages_of(chosen.run.config, features)
  if flags.tables:
    choice = read_choice(flags.tables, features, choice)
  layers = _layers(flags, chosen)
  if flags.report:
    runs = dict(_possible(chosen))
    _report(flags, chosen, sample(flags, chosen, flags.split), runs)
    return
  if flags.memory:
    budget, runs = read_size('--memory', flags.memory), dict(_possible(chosen))
    examples = sample(flags, chosen, flags.split)
    choice = _within(chosen, examples, runs, budget)
  seen = None
  if layers is not None and layers.calibrated:
    split = flags.split if flags.calibrate is None else flags.calibrate
    seen = sample(flags, chosen, split)
  _write(flags, chosen, choice, layers, seen, defaults)


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Checks the flags and quantises."""
  flags = parser_of(__doc__).parse_args(split_values(argv, ('--data',)))
  check(flags)
  heap.keep_freed_memory()
  from dlrm_jax.program_cache import keep_programs

  keep_programs()
  _quantize(flags)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
