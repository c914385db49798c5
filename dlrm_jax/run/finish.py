"""The end of a run: its best checkpoint scored, results and report written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dlrm_jax import files
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.cluster import agreement
from dlrm_jax.metrics import binary
from dlrm_jax.report import run_page
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.run.history import HISTORY, OUT_OF_RANGE, has_auc, read_history
from dlrm_jax.run.scores import score_table
from dlrm_jax.run.scoring import batches_of, score, undefined_line
from dlrm_jax.training.nodes import divergence, node_count, node_table
from dlrm_jax.training.sizes import table_sizes
from dlrm_jax.training.state import TrainState, abstract_state
from dlrm_jax.vocabulary.policy import UNKNOWN

_RESULTS, _REPORT = 'results.json', 'report.html'


def check_writable(run: Run) -> None:
  """Raises `InputError` where what a run writes at its end can't be written."""
  for name in (HISTORY, _RESULTS, _REPORT):
    files.check_writable(run.workdir / name, '--workdir')


class _Nodes(NamedTuple):
  """What nodes with tables of their own have learned: scores, divergence."""

  scores: dict[str, dict[str, float]]
  divergence: dict[str, float]


def _nodes(
  run: Run, evaluate: Evaluator, state: TrainState, splits: list[str]
) -> _Nodes | None:
  """Of the last split, where there are such nodes."""
  if not splits or not node_count(run.task):
    return None
  tallies = evaluate.nodes(state, batches_of(run, splits[-1]))
  return _Nodes(
    {name: binary.summarize(tally) for name, tally in tallies.items()},
    divergence(run.task, state),
  )


def _which(run: Run, history: list[dict[str, Any]], best: int) -> str:
  """Which checkpoint the results are those of, and why that one."""
  if has_auc(history):
    why = 'the best by validation AUC'
  elif run.data.splits.get('validation'):
    why = 'the last one, as validation AUC is undefined'
  else:
    why = 'the last one, as the data has no split validation'
  return f'checkpoint of step {best:,}, {why}'


def _report(
  run: Run,
  results: Mapping[str, binary.Tally],
  nodes: _Nodes | None,
  step: int,
  best: int,
  out_of_range: Mapping[str, int],
) -> None:
  """Writes results.json and report.html, prints the metrics."""
  summaries = {split: binary.summarize(t) for split, t in results.items()}
  references = {split: run.references(split) for split in results}
  history = read_history(run.workdir)
  which = _which(run, history, best)
  extras: dict[str, Any] = {} if nodes is None else {'nodes': nodes._asdict()}
  if run.reading.out_of_range == UNKNOWN:
    trained = [row[OUT_OF_RANGE] for row in history if OUT_OF_RANGE in row]
    extras[OUT_OF_RANGE] = {'train': (trained or [0])[-1], **out_of_range}
  files.write_json(
    run.workdir / _RESULTS,
    {'step': best, 'splits': summaries, 'references': references} | extras,
  )
  lacks = [
    line
    for split, scores in summaries.items()
    if (line := undefined_line(split, scores['examples'], scores['clicks']))
  ]
  last = list(results)[-1] if results else ''
  run_page.write_report(
    run.workdir / _REPORT,
    title=f'Training run {run.workdir.name}',
    results=results,
    history=history,
    tables=table_sizes(run.task),
    config=run.config,
    environment=run_page.environment(),
    references=references.get(last),
    notes=[
      f'{step:,} steps of {run.reading.batch_size:,} examples; results are '
      f'those of the {which}.',
      *(f'{line}.' for line in lacks),
    ],
  )
  for split in results:
    print(score_table(split, summaries[split], references[split]))
  if nodes is not None:
    print(node_table(*nodes))
  for split, count in extras.get(OUT_OF_RANGE, {}).items():
    print(f'{split}: {count:,} ids out of range became the unknown row')
  print(*lacks, f'{which}; see {run.workdir / _REPORT}', sep='\n')


def finish(
  run: Run,
  evaluate: Evaluator,
  checkpoints: Checkpoints,
  state: TrainState,
  step: int,
) -> None:
  """Scores the best checkpoint on validation and test, and reports.

  Args:
    run: whose training is over.
    evaluate: scores.
    checkpoints: with at least one.
    state: the last one.
    step: of it.

  Raises:
    InputError: a checkpoint or a split is damaged, or logits are not finite.
  """
  assert checkpoints.best is not None, 'the last step is always saved'
  best = agreement.from_first(checkpoints.best)
  if best != step:
    del state  # its memory is needed for the other one
    abstract = abstract_state(run.task)
    state = checkpoints.restore_for_evaluation(best, abstract)
  results, out_of_range = {}, {}
  for split in ('validation', 'test'):
    if run.data.splits.get(split):
      batches = batches_of(run, split)
      results[split] = score(run, evaluate, state, best, batches)
      out_of_range[split] = agreement.total(batches.out_of_range)
  nodes = _nodes(run, evaluate, state, list(results))
  if agreement.first():
    _report(run, results, nodes, step, best, out_of_range)
