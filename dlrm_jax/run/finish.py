"""The end of a run: scores its best checkpoint, writes results and report."""

from collections.abc import Mapping
from typing import Any

from dlrm_jax import files
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.cluster import agreement
from dlrm_jax.data.lists import lists_of
from dlrm_jax.metrics import binary, ranking
from dlrm_jax.report import importance, run_page
from dlrm_jax.run.description import Run
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.run.first_state import origin_lines, started_from
from dlrm_jax.run.history import (
  HISTORY,
  OUT_OF_RANGE,
  read_history,
  values_of,
)
from dlrm_jax.run.members import Members, score_members
from dlrm_jax.run.scores import (
  by_head,
  flat_scores,
  member_tables,
  named,
  score_table,
)
from dlrm_jax.run.scoring import batches_of, score, undefined_lines
from dlrm_jax.run.workdir import RESULTS
from dlrm_jax.training.sizes import table_sizes
from dlrm_jax.training.state import TrainState, abstract_state
from dlrm_jax.vocabulary.policy import UNKNOWN


def check_files(run: Run) -> None:
  """Checks the files of the end of a run, before its first step.

  Raises:
    InputError: one cannot be written, or the importance of features, which the
      report has a section of, is damaged.
  """
  for name in (HISTORY, RESULTS, run_page.REPORT):
    files.check_writable(run.workdir / name, '--workdir')
  importance.read(run.workdir)


def _which(run: Run, history: list[dict[str, Any]], best: int) -> str:
  """Names the checkpoint of the results, and the reason to choose it."""
  label = run.objective.label
  if values_of(run.objective, history):
    why = f'the best by validation {label}'
  elif run.data.splits.get('validation'):
    why = f'the last one, as validation {label} is undefined'
  else:
    why = 'the last one, as the data has no split validation'
  return f'checkpoint of step {best:,}, {why}'


def _report(
  run: Run,
  results: Mapping[str, binary.Tally],
  ranked: Mapping[str, Mapping[str, float]],
  members: Members | None,
  step: int,
  best: int,
  out_of_range: Mapping[str, int],
) -> None:
  """Writes results.json and report.html, and prints the metrics.

  Args:
    run: the run.
    results: tallies by split, or `SPLIT/HEAD`.
    ranked: metrics of lists, of splits that have any.
    members: scores of its nodes or branches, where there are any.
    step: the last step.
    best: the step of the checkpoint that was scored.
    out_of_range: ids of each split that became the unknown row.
  """
  summaries = {
    split: {**ranked.get(split, {}), **binary.summarize(t)}
    for split, t in results.items()
  }
  references = {
    name: of_head
    for split in dict.fromkeys(name.partition('/')[0] for name in results)
    for name, of_head in named(split, run.references(split)).items()
  }
  history = read_history(run.workdir)
  which = _which(run, history, best)
  extras: dict[str, Any] = {}
  tables: list[str] = []
  if members is not None:
    of_members = {k: by_head(*scored) for k, scored in members.scored.items()}
    tables = member_tables(members.kind, of_members, members.divergence)
    scores = {name: flat_scores(x) for name, x in of_members.items()}
    apart = {'divergence': members.divergence} if members.divergence else {}
    extras[members.kind] = {'scores': scores, **apart}
  if run.reading.out_of_range == UNKNOWN:
    trained = [row[OUT_OF_RANGE] for row in history if OUT_OF_RANGE in row]
    extras[OUT_OF_RANGE] = {'train': (trained or [0])[-1], **out_of_range}
  if origins := started_from(run):
    extras['started_from'] = origins
  files.write_json(
    run.workdir / RESULTS,
    {'step': best, 'splits': summaries, 'references': references} | extras,
  )
  lacks = [
    line
    for split, scores in summaries.items()
    for line in undefined_lines(split, scores)
  ]
  last = list(results)[-1] if results else ''
  run_page.write_report(
    run.workdir / run_page.REPORT,
    title=f'Training run {run.workdir.name}',
    results=results,
    ranked=ranked,
    history=history,
    tables=table_sizes(run.task),
    config=run.config,
    environment=run_page.environment(),
    objective=run.objective,
    references=references.get(last),
    notes=[
      f'{step:,} steps of {run.reading.batch_size:,} examples; results are '
      f'those of the {which}.',
      *(f'{line}.' for line in (*origin_lines(run), *lacks)),
    ],
    importances=importance.read(run.workdir),
  )
  for split in results:
    print(score_table(split, summaries[split], references[split]))
  for table in tables:
    print(table)
  for split, count in extras.get(OUT_OF_RANGE, {}).items():
    print(f'{split}: {count:,} ids out of range became the unknown row')
  print(*lacks, f'{which}; see {run.workdir / run_page.REPORT}', sep='\n')


def finish(
  run: Run,
  evaluate: Evaluator,
  checkpoints: Checkpoints,
  state: TrainState,
  step: int,
) -> None:
  """Scores the best checkpoint on validation and test, and reports.

  Args:
    run: the run, whose training is over.
    evaluate: the evaluator of the run.
    checkpoints: its checkpoints, at least one.
    state: the last state.
    step: the step of the last state.

  Raises:
    InputError: a checkpoint or a split is damaged, or logits are not finite.
  """
  assert checkpoints.best is not None, 'the last step is always saved'
  best = agreement.from_first(checkpoints.best)
  if best != step:
    del state  # its memory is needed for the other one
    abstract = abstract_state(run.task)
    state = checkpoints.restore_for_evaluation(best, abstract)
  results: dict[str, binary.Tally] = {}
  ranked: dict[str, dict[str, float]] = {}
  out_of_range, splits = {}, []
  for split in ('validation', 'test'):
    if run.data.splits.get(split):
      batches = batches_of(run, split)
      scored = score(run, evaluate, state, best, split, batches)
      of_split = named(split, scored.tallies)
      results |= of_split
      if scored.places is not None:
        ranked[next(iter(of_split))] = ranking.summarize(scored.places)
      out_of_range[split] = agreement.total(batches.out_of_range)
      splits.append(split)
  members = None
  if splits:
    last = splits[-1]
    batches, lists = batches_of(run, last), lists_of(run.data.details, last)
    members = score_members(run.task, evaluate, state, batches, lists)
  if agreement.first():
    _report(run, results, ranked, members, step, best, out_of_range)
