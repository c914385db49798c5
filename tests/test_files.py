"""Files appear whole, and are on the disk before they get their names."""

import os
import pathlib

import pytest

from dlrm_jax import files


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
  tmp_path, monkeypatch
):
  events = []
  fsync, replace = os.fsync, type(tmp_path).replace
  monkeypatch.setattr(
    os, 'fsync',
    lambda n: (events.append(os.readlink(f'/proc/self/fd/{n}')), fsync(n)),
  )  # fmt: skip
  monkeypatch.setattr(
    type(tmp_path), 'replace',
    lambda a, b: (events.append('rename'), replace(a, b)),
  )  # fmt: skip
  files.write_text(tmp_path / 'plan.json', '{}')
  synced, renamed, folder = events
  assert synced.startswith(str(tmp_path / 'plan.json.'))
  assert (renamed, folder) == ('rename', str(tmp_path))
  assert (tmp_path / 'plan.json').read_text() == '{}'


def test_a_folder_is_published_with_everything_in_it(tmp_path):
  work = files.unfinished_name(tmp_path / 'run')
  (work / 'deep').mkdir(parents=True)
  (work / 'deep' / 'a').write_text('1')
  files.publish(work, tmp_path / 'run')
  assert (tmp_path / 'run' / 'deep' / 'a').read_text() == '1'


def test_what_killed_processes_wrote_is_removed(tmp_path):
  (tmp_path / 'a').mkdir()
  for name in ('a/set.json', 'a/day.20261128', 'plan.json'):
    (tmp_path / name).touch()
    files.unfinished_name(tmp_path / name).touch()
  files.unfinished_name(tmp_path / 'run').mkdir()
  files.remove_unfinished(tmp_path)
  left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*'))
  assert left == ['a', 'a/day.20261128', 'a/set.json', 'plan.json']


def test_an_error_leaves_what_was_there(tmp_path):
  path = tmp_path / 'a'
  path.write_text('old')

  def fail():
    with files.replacing(path) as work:
      work.write_text('new')
      raise InterruptedError

  with pytest.raises(InterruptedError):
    fail()
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_of_one_file_is_removed(
  tmp_path, monkeypatch
):
  left = ['a.csv.0123456789ab', 'a.csv.fedcba987654']
  others = ['a.csv', 'a.csv.gz', 'ba.csv.0123456789ab', 'a.csv.0123456789abc']
  for name in (left[0], *others):
    (tmp_path / name).write_text('x')
  (tmp_path / left[1]).mkdir()
  (tmp_path / left[1] / 'part').write_text('x')
  monkeypatch.chdir(tmp_path)
  files.remove_unfinished_of(pathlib.Path('a.csv'))
  assert {path.name for path in tmp_path.iterdir()} == set(others)
