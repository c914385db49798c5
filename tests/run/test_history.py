import math
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.run.history import History, read_history


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
    ([0.6, 0.5, 0.4], None, False),
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
  assert log.should_stop(Objective(), patience, lambda step: True) is stop


def test_evaluations_that_do_not_count_stop_nothing(tmp_path):
  log = evaluations(tmp_path, 0.6, 0.5, 0.4, 0.3)
  log.close()
  assert log.should_stop(Objective(), 2, lambda step: True)
  assert not log.should_stop(Objective(), 2, lambda step: step % 2 == 0)


DAMAGED = {
  'garbage': b'\xff\x00\x9d{',
  'a list': b'[1, 2]',
  'a text': b'"loss"',
  'no step': b'{"loss": 0.5}',
  'a step that is a text': b'{"step": "2", "loss": 0.5}',
  'a text for a number': b'{"step": 2, "loss": "low"}',
}


@pytest.mark.parametrize('line', DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_left_out_and_the_file_is_kept(
  tmp_path, line, capsys
):
  path = tmp_path / 'metrics.jsonl'
  text = b'{"step": 1, "loss": 0.5}\n' + line + b'\n{"step": 3, "loss": 0.4}\n'
  path.write_bytes(text)
  history(tmp_path, 3).close()
  assert [row['step'] for row in read_history(tmp_path)] == [1, 3]
  (kept,) = tmp_path.glob('metrics.jsonl.damaged*')
  assert kept.read_bytes() == text
  told = capsys.readouterr().out
  assert f'{path}: line 2 damaged and left out' in told
  assert kept.name in told


def test_a_log_that_is_gone_begins_anew_with_a_word(tmp_path, capsys):
  history(tmp_path, 0).close()
  assert capsys.readouterr().out == ''
  (tmp_path / 'metrics.jsonl').unlink()
  history(tmp_path, 5).close()
  assert 'metrics.jsonl is missing' in capsys.readouterr().out


def test_a_log_that_can_not_be_read_is_named(tmp_path):
  (tmp_path / 'metrics.jsonl').mkdir()
  with pytest.raises(InputError, match=r'metrics\.jsonl: cannot be read: I'):
    history(tmp_path)


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no full device')
def test_a_full_disk_is_told_in_one_line(tmp_path):
  log = history(tmp_path)
  (tmp_path / 'metrics.jsonl').unlink()
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  with pytest.raises(InputError, match=r'metrics\.jsonl: .*No space .*room'):
    log.add(1, {'loss': 0.5})
  log.close()


def test_event_files_hold_the_numbers_and_where_a_run_went_on(tmp_path):
  log = history(tmp_path, 4)
  log.add(5, {'loss': 0.5, 'validation/auc': math.nan})
  log.close()
  (path,) = (tmp_path / 'tensorboard').iterdir()
  events = list(events_in(path.read_bytes()))
  assert [(e.step, e.session_log.status) for e in events[:2]] == [
    (0, 0),
    (5, 1),
  ]
  (value,) = events[2].summary.value
  assert (events[2].step, value.tag, value.simple_value) == (5, 'loss', 0.5)
  assert len(events) == 3


def events_in(data):
  """Records: length u64, its checksum, the event, its checksum."""
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    yield Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]
