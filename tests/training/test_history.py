import math

import pytest

from dlrm_jax.training.history import History, read_history


def history(folder, step=10**6):
  return History(folder, step)


def evaluations(folder, *aucs):
  log = history(folder)
  for step, auc in enumerate(aucs, 1):
    log.add(step, {'validation/auc': auc})
  return log


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
  log = history(tmp_path)
  for step in (1, 2, 3):
    log.add(step, {'loss': float(step)})
  log.close()
  resumed = history(tmp_path, 2)
  resumed.close()
  assert [row['step'] for row in read_history(tmp_path)] == [1, 2]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
  log = history(tmp_path)
  log.add(1, {'loss': 0.5})
  log.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 2, "lo')
  assert read_history(tmp_path) == [{'step': 1, 'loss': 0.5}]


def test_undefined_metrics_survive_as_nan(tmp_path):
  evaluations(tmp_path, math.nan).close()
  assert 'null' in (tmp_path / 'metrics.jsonl').read_text()
  assert math.isnan(read_history(tmp_path)[0]['validation/auc'])


@pytest.mark.parametrize(
  ('aucs', 'patience', 'stop'),
  [
    ([0.6, 0.7, 0.69, 0.68], 2, True),
    ([0.6, 0.7, 0.69, 0.68], 3, False),
    ([0.6, 0.7, 0.69, 0.71], 2, False),
    ([0.6, 0.5, 0.4], 0, False),
    ([0.6, 0.5], 2, False),
    ([0.6, math.nan], 1, False),
    ([0.6, math.nan, 0.5, math.nan], 1, True),
    ([math.nan, 0.6], 1, False),
    ([math.nan] * 9, 1, False),
  ],
)
def test_it_stops_when_patience_is_spent(tmp_path, aucs, patience, stop):
  log = evaluations(tmp_path, *aucs)
  log.close()
  assert log.should_stop(patience) is stop
