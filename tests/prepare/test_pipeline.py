"""Preparing in stages: the same set however it is made, or none at all."""

import concurrent.futures
import contextlib
import dataclasses
import filecmp
import json
import os
import threading

import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax import machine
from dlrm_jax.data import manifest, shards
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import join
from dlrm_jax.errors import InputError
from dlrm_jax.inspect.__main__ import main as inspect
from dlrm_jax.prepare import pipeline, preparation, resources, units, work
from dlrm_jax.prepare.criteo import settings as criteo
from dlrm_jax.prepare.criteo.settings import CriteoSettings
from dlrm_jax.prepare.known_ids import preparation_with
from dlrm_jax.prepare.preparation import Settings
from dlrm_jax.prepare.readers import lines
from dlrm_jax.prepare.stages import multi_hot, spread, write
from dlrm_jax.prepare.stages import number as vocabularies
from dlrm_jax.prepare.stages.count import Count, count_values, mark_of
from dlrm_jax.prepare.stages.deal import Purpose
from dlrm_jax.prepare.stages.merge import Merge, merge_runs
from dlrm_jax.prepare.stages.parse import Slice
from dlrm_jax.vocabulary import coder
from dlrm_jax.vocabulary.coder import Values
from dlrm_jax.vocabulary.columns import Sparse
from tests import commands, scored
from tests.prepare.test_criteo_sets import make_rows, save
from tests.sets import prepare_criteo

MEMORY = 2 << 30


def inputs(folder, files=3, rows=700):
  """Several files: as many pieces."""
  made = make_rows(files * rows)
  return [
    save(folder / f'day_{i}', made[i * rows : (i + 1) * rows])
    for i in range(files)
  ]


def whole(source):
  return join([source[i] for i in range(len(source))])


def same_files(a, b):
  names = sorted(str(p.relative_to(a)) for p in a.rglob('*') if p.is_file())
  assert names == sorted(
    str(p.relative_to(b)) for p in b.rglob('*') if p.is_file()
  )
  _, differ, wrong = filecmp.cmpfiles(a, b, names, shallow=False)
  assert not differ
  assert not wrong


def interrupted_after(count):
  """A stage that is killed, so to speak, after so many units."""
  done = 0

  def stage(name, function, todo):
    nonlocal done
    for unit in units.undone(todo):
      if done == count:
        raise KeyboardInterrupt
      units.do_unit(function, unit)
      done += 1

  return stage


def test_a_run_stopped_after_any_unit_goes_on_to_the_same_set(tmp_path):
  files = inputs(tmp_path)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  pipeline.prepare_set(
    job, str(tmp_path / 'whole'), MEMORY, stage=units.in_process
  )
  runs = 0
  while not (tmp_path / 'cut').exists():
    runs += 1
    try:
      stage = interrupted_after(9)
      pipeline.prepare_set(job, str(tmp_path / 'cut'), MEMORY, stage=stage)
    except KeyboardInterrupt:
      assert not (tmp_path / 'cut').exists()
  assert runs > 5
  same_files(tmp_path / 'whole', tmp_path / 'cut')
  assert not (tmp_path / 'cut.unfinished').exists()


def test_killed_processes_go_on_to_the_same_set(tmp_path):
  files = inputs(tmp_path, files=4, rows=2000)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  pipeline.prepare_set(
    job, str(tmp_path / 'whole'), MEMORY, stage=units.in_process
  )
  command = [
    *('-m', 'dlrm_jax.prepare', 'criteo', '--memory=2GB'),
    *('--input', *files, f'--output={tmp_path / "cut"}'),
  ]
  unfinished = tmp_path / 'cut.unfinished'
  for files_there in (1, 6, 12, 18):

    def far_enough(most=files_there):
      names = (name for *_, files in os.walk(unfinished) for name in files)
      return sum(1 for _ in names) >= most

    with commands.Command(
      command, before=commands.stop_before_the_end
    ) as process:
      commands.wait_until(far_enough, process)
      process.kill()
  commands.run(command)
  same_files(tmp_path / 'whole', tmp_path / 'cut')


def test_memory_and_workers_change_nothing(tmp_path, monkeypatch):
  files = inputs(tmp_path)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings(min_count=2))
  pipeline.prepare_set(
    job, str(tmp_path / 'one'), MEMORY, stage=units.in_process
  )
  # So little that each vocabulary is merged in ranges, cut in tables, and
  # looked up in groups of them.
  small = resources.Resources(MEMORY, 2, 3000, 2000)
  monkeypatch.setattr(
    pipeline, 'divided', lambda memory, row, cores=None: small
  )
  with units.processes(2) as stage:
    pipeline.prepare_set(job, str(tmp_path / 'two'), MEMORY, stage=stage)
  same_files(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['frequency', 'fb', 'torchrec'])
def test_little_memory_makes_groups_and_keeps_every_mode(
  tmp_path, monkeypatch, mode
):
  files = inputs(tmp_path, files=1)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings(mode=mode))
  pipeline.prepare_set(
    job, str(tmp_path / 'one'), MEMORY, stage=units.in_process
  )
  looked = []

  def watched(name, function, todo):
    looked.append(name)
    units.in_process(name, function, todo)

  small = resources.Resources(MEMORY, 1, 2000, 3000)
  monkeypatch.setattr(
    pipeline, 'divided', lambda memory, row, cores=None: small
  )
  pipeline.prepare_set(job, str(tmp_path / 'two'), MEMORY, stage=watched)
  assert sum(name.startswith('look up') for name in looked) > 2
  same_files(tmp_path / 'one', tmp_path / 'two')


def rows_of(block):
  rows = zip(block.ids, block.dense, strict=True)
  return sorted((bytes(ids), bytes(dense)) for ids, dense in rows)


def test_shuffling_keeps_rows_and_other_splits(tmp_path):
  files = inputs(tmp_path)
  sets = {}
  for name, options in {
    'kept': CriteoSettings(shuffle=False),
    'mixed': CriteoSettings(),
    'again': CriteoSettings(),
    'other': CriteoSettings(seed=1),
  }.items():
    sets[name] = prepare_criteo({'all': files}, str(tmp_path / name), options)
  train = {name: whole(s.source('train')) for name, s in sets.items()}
  assert rows_of(train['kept']) == rows_of(train['mixed'])
  assert not np.array_equal(train['kept'].ids, train['mixed'].ids)
  assert not np.array_equal(train['other'].ids, train['mixed'].ids)
  np.testing.assert_array_equal(train['again'].ids, train['mixed'].ids)
  kept, mixed = (whole(sets[n].source('test')) for n in ('kept', 'mixed'))
  np.testing.assert_array_equal(kept.ids, mixed.ids)


@pytest.fixture
def many_shards(monkeypatch):
  """Shards of a block each, in bundles of two."""
  monkeypatch.setattr(shards, 'SHARD_BYTES', 1)
  monkeypatch.setattr(spread, 'MOST_PILES', 2)
  monkeypatch.setattr(spread, 'BUNDLE_SHARDS', 2)
  monkeypatch.setattr(lines, 'PIECE_BYTES', 400_000)


def test_bundles_of_shards_have_the_rows_and_can_be_stopped(
  tmp_path, many_shards, monkeypatch
):
  job = criteo.criteo_preparation(
    {'all': inputs(tmp_path, 2, 9000)}, CriteoSettings()
  )
  work, held = tmp_path / 'a.unfinished', {}

  def watched(name, function, todo):
    held[name] = resources.folder_bytes(work / 'parts' / 'train')
    units.in_process(name, function, todo)

  pipeline.prepare_set(job, str(tmp_path / 'a'), MEMORY, stage=watched)
  assert held['bundle'] > 1e6
  assert not held['write']
  runs = 0
  while not (tmp_path / 'cut').exists():
    runs += 1
    with contextlib.suppress(KeyboardInterrupt):
      stage = interrupted_after(17)
      pipeline.prepare_set(job, str(tmp_path / 'cut'), MEMORY, stage=stage)
  assert runs > 5
  same_files(tmp_path / 'a', tmp_path / 'cut')
  monkeypatch.setattr(spread, 'MOST_PILES', 256)
  pipeline.prepare_set(job, str(tmp_path / 'b'), MEMORY, stage=units.in_process)
  a, b = (open_prepared(tmp_path / name) for name in 'ab')
  assert a.files['train'] > 3
  train = [whole(x.source('train')) for x in (a, b)]
  assert rows_of(train[0]) == rows_of(train[1])
  assert not np.array_equal(train[0].ids, train[1].ids)
  for split in ('validation', 'test'):
    ids = [whole(x.source(split)).ids for x in (a, b)]
    np.testing.assert_array_equal(*ids)


def test_no_two_uses_share_a_random_stream(tmp_path, many_shards, monkeypatch):
  job = criteo.criteo_preparation(
    {'all': inputs(tmp_path, 2, 9000)}, CriteoSettings()
  )
  seeds = []
  made = np.random.default_rng

  def watched(seed):
    seeds.append(tuple(map(int, seed)))
    return made(seed)

  monkeypatch.setattr(np.random, 'default_rng', watched)
  pipeline.prepare_set(
    job, str(tmp_path / 'set'), MEMORY, stage=units.in_process
  )
  states = {
    tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in seeds
  }
  assert {seed[0] for seed in seeds} == set(map(int, Purpose))
  assert len(states) == len(set(seeds))


def cut_to(path, share):
  os.truncate(path, int(path.stat().st_size * share))


STAGES = ('count', 'merge', 'index', 'draw bags', 'encode', 'bundle', 'write')
KINDS = (
  *('spool/*.json', 'spool/*.arrow', 'counts/*.json', 'counts/*.run'),
  *('merged/*.json', 'set/vocabulary/*', 'tables/*', 'bags/*.json'),
  *('bags/*.i32', 'found-*/*', 'mixed/*.json', 'parts/*/*.i32'),
  *('parts/*.npy', 'bundles/*/*.npy', 'bundles/*/*/*.i32'),
  *('set/*.array_record-*',),
)


@pytest.mark.slow
@pytest.mark.parametrize('share', [0, 0.5])
def test_files_that_a_loss_of_power_cut_are_made_again(
  tmp_path, many_shards, monkeypatch, share
):
  small = resources.Resources(MEMORY, 1, 60_000, 200_000)
  monkeypatch.setattr(
    pipeline, 'divided', lambda memory, row, cores=None: small
  )
  options = CriteoSettings(multi_hot=(2,) * 26)
  job = criteo.criteo_preparation({'all': inputs(tmp_path, 2, 9000)}, options)
  pipeline.prepare_set(
    job, str(tmp_path / 'whole'), MEMORY, stage=units.in_process
  )
  work, seen = tmp_path / 'cut.unfinished', set()
  for number, last in enumerate((*STAGES, None)):

    def stopped(name, function, todo, last=last):
      if name == last:
        raise KeyboardInterrupt
      units.in_process(name, function, todo)

    def fail(*args):
      raise KeyboardInterrupt

    with monkeypatch.context() as patch:
      patch.setattr(write, 'write_manifest', fail)
      with pytest.raises(KeyboardInterrupt):
        pipeline.prepare_set(job, str(tmp_path / 'cut'), MEMORY, stage=stopped)
    for kind in KINDS:
      if found := sorted(work.glob(kind)):
        cut_to(found[number % len(found)], share)
        seen.add(kind)
  assert seen == set(KINDS)
  pipeline.prepare_set(
    job, str(tmp_path / 'cut'), MEMORY, stage=units.in_process
  )
  same_files(tmp_path / 'whole', tmp_path / 'cut')


@pytest.mark.parametrize('share', [0, 0.5])
def test_work_whose_plan_is_cut_is_begun_anew(tmp_path, share):
  job = criteo.criteo_preparation({'all': inputs(tmp_path)}, CriteoSettings())
  with pytest.raises(KeyboardInterrupt):
    pipeline.prepare_set(
      job, str(tmp_path / 'a'), MEMORY, stage=interrupted_after(9)
    )
  cut_to(tmp_path / 'a.unfinished' / 'plan.json', share)
  pipeline.prepare_set(job, str(tmp_path / 'a'), MEMORY, stage=units.in_process)
  pipeline.prepare_set(job, str(tmp_path / 'b'), MEMORY, stage=units.in_process)
  same_files(tmp_path / 'a', tmp_path / 'b')


def test_unfinished_work_of_another_version_is_told(tmp_path, monkeypatch):
  job = criteo.criteo_preparation({'all': inputs(tmp_path)}, CriteoSettings())
  with monkeypatch.context() as patch:
    patch.setattr(preparation, 'LAYOUT', None)
    with pytest.raises(KeyboardInterrupt):
      pipeline.prepare_set(
        job, str(tmp_path / 'a'), MEMORY, stage=interrupted_after(2)
      )
  with pytest.raises(InputError, match=r'of another version .* --overwrite'):
    pipeline.prepare_set(
      job, str(tmp_path / 'a'), MEMORY, stage=units.in_process
    )
  pipeline.prepare_set(
    job, str(tmp_path / 'a'), MEMORY, True, stage=units.in_process
  )


def test_logs_get_the_vocabularies_of_another_set(tmp_path):
  first, second, third = inputs(tmp_path)
  options = CriteoSettings(splits=None)
  known = prepare_criteo({'train': [first]}, str(tmp_path / 'known'), options)
  job = preparation_with(
    known, {'test': [second, third]}, Settings(splits=None)
  )
  pipeline.prepare_set(
    job, str(tmp_path / 'day'), MEMORY, stage=units.in_process
  )
  day = open_prepared(tmp_path / 'day')
  both = prepare_criteo(
    {'train': [first], 'test': [second, third]}, str(tmp_path / 'both'), options
  )
  assert day.splits == {'test': 1400}
  assert (day.schema, day.scale) == (known.schema, known.scale)
  assert day.details['ids'] == known.details['ids']
  np.testing.assert_array_equal(
    whole(day.source('test')).ids, whole(both.source('test')).ids
  )


def test_unfinished_work_of_other_files_is_not_gone_on_with(tmp_path):
  files = inputs(tmp_path)
  output = str(tmp_path / 'set')
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  with pytest.raises(KeyboardInterrupt):
    pipeline.prepare_set(job, output, MEMORY, stage=interrupted_after(2))
  job = criteo.criteo_preparation({'all': files[:2]}, CriteoSettings())
  with pytest.raises(InputError, match='unfinished work with other files'):
    pipeline.prepare_set(job, output, MEMORY, stage=units.in_process)
  pipeline.prepare_set(
    job, output, MEMORY, overwrite=True, stage=units.in_process
  )
  assert sum(open_prepared(output).splits.values()) == 1400


def test_other_options_go_on_with_what_is_parsed(tmp_path):
  files = inputs(tmp_path)
  output = str(tmp_path / 'set')
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  with pytest.raises(KeyboardInterrupt):
    pipeline.prepare_set(job, output, MEMORY, stage=interrupted_after(3))
  parsed = []

  def watched(name, function, todo):
    if name == 'parse':
      parsed.extend(units.undone(todo))
    units.in_process(name, function, todo)

  job = criteo.criteo_preparation({'all': files}, CriteoSettings(min_count=3))
  pipeline.prepare_set(job, output, MEMORY, stage=watched)
  assert not parsed
  assert open_prepared(output).details['options']['numbering']['min_count'] == 3


def test_two_runs_do_not_work_on_one_set(tmp_path):
  with (
    work.unfinished(str(tmp_path / 'set'), {}, overwrite=False),
    pytest.raises(InputError, match='another run is at work'),
    work.unfinished(str(tmp_path / 'set'), {}, overwrite=False),
  ):
    pytest.fail('both ran')


def test_a_disk_without_room_is_told_before_anything_is_made(
  tmp_path, monkeypatch
):
  files = inputs(tmp_path)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  job = job._replace(rows=10**12)
  with pytest.raises(InputError, match=r'B are needed .*B are free'):
    pipeline.prepare_set(
      job, str(tmp_path / 'set'), MEMORY, stage=units.in_process
    )
  assert not list(tmp_path.glob('set*'))


def test_memory_for_no_worker_is_refused(tmp_path):
  job = criteo.criteo_preparation(
    {'all': inputs(tmp_path, 1)}, CriteoSettings()
  )
  with pytest.raises(InputError, match=r'too little for one worker; expected'):
    pipeline.prepare_set(job, str(tmp_path / 'set'), 100 << 20)


def damaged(folder, change, digest=True):
  """Changes one thing of a set's description; its digest, too."""
  path = folder / 'metadata.json'
  said = json.loads(path.read_text())
  change(said)
  if digest:
    said['digest'] = manifest.manifest_digest(said)
  path.write_text(json.dumps(said))


def test_a_flipped_byte_is_found_in_its_block(tmp_path):
  prepared = prepare_criteo(
    {'all': inputs(tmp_path)}, str(tmp_path / 'set'), CriteoSettings()
  )
  path = next((tmp_path / 'set').glob('*-train.*'))
  good = path.read_bytes()
  # Anywhere in what is used of the file: it is padded to 64 KiB.
  end = len(good.rstrip(b'\0'))
  before = whole(prepared.source('train'))
  told = []
  for at in np.linspace(64, end - 1, 25, dtype=int):
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    try:
      found = whole(open_prepared(tmp_path / 'set').source('train'))
    except InputError as error:
      told.append(str(error))
    else:  # a byte that nothing is read from
      np.testing.assert_array_equal(found.ids, before.ids)
      np.testing.assert_array_equal(found.dense, before.dense)
      np.testing.assert_array_equal(found.labels, before.labels)
  assert len(told) > 10
  assert all('train' in line and 'damaged' in line for line in told)


def test_parts_and_manifests_of_other_options_are_found(tmp_path):
  files = inputs(tmp_path)
  a, b = (
    prepare_criteo({'all': files}, str(tmp_path / name), options)
    for name, options in (
      ('a', CriteoSettings(seed=1)),
      ('b', CriteoSettings(seed=2)),
    )
  )
  assert a.schema == b.schema
  # Its manifest beside the other's parts: files have other sizes, or else
  # blocks other stamps.
  for path in (tmp_path / 'b').glob('*.array_record-*'):
    size = path.stat().st_size
    other = (tmp_path / 'a' / path.name).read_bytes()
    path.write_bytes(other)
    damaged(
      tmp_path / 'b',
      lambda said, size=size, other=other: said['files'].update(
        {
          split: [len(other) if s == size else s for s in sizes]
          for split, sizes in said['files'].items()
        }
      ),
    )
  with pytest.raises(InputError, match=r'block 0: damaged .*of another set'):
    whole(open_prepared(tmp_path / 'b').source('train'))


def test_a_manifest_that_was_edited_is_refused(tmp_path):
  prepare_criteo(
    {'all': inputs(tmp_path, 1)}, str(tmp_path / 'set'), CriteoSettings()
  )
  damaged(
    tmp_path / 'set', lambda said: said['scale'].update(mean=[7.0] * 13), False
  )
  with pytest.raises(InputError, match=r'metadata\.json contradicts itself'):
    open_prepared(tmp_path / 'set')


def test_a_missing_part_is_named(tmp_path):
  prepare_criteo(
    {'all': inputs(tmp_path, 1)}, str(tmp_path / 'set'), CriteoSettings()
  )
  next((tmp_path / 'set').glob('*-test.*')).unlink()
  with pytest.raises(InputError, match=r'click_log-test.*the file is missing'):
    open_prepared(tmp_path / 'set')


def test_a_set_remembers_how_values_were_numbered(tmp_path):
  options = CriteoSettings(mode='fb', max_ind_range=50)
  made = prepare_criteo(
    {'all': inputs(tmp_path, 1)}, str(tmp_path / 'set'), options
  )
  numbering = vocabularies.numbering_of(made.details)
  assert numbering == options.numbering
  assert dataclasses.asdict(numbering)['everything']


def test_pieces_of_a_file_are_the_file(tmp_path, monkeypatch):
  raw = save(tmp_path / 'raw', make_rows(900))
  whole_set = prepare_criteo(
    {'all': [raw]}, str(tmp_path / 'a'), CriteoSettings(shuffle=False)
  )
  monkeypatch.setattr(lines, 'PIECE_BYTES', 20_000)
  job = criteo.criteo_preparation({'all': [raw]}, CriteoSettings(shuffle=False))
  assert len(job.pieces) > 5
  pipeline.prepare_set(job, str(tmp_path / 'b'), MEMORY, stage=units.in_process)
  cut = open_prepared(tmp_path / 'b')
  for split in whole_set.splits:
    a, b = (whole(s.source(split)) for s in (whole_set, cut))
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.dense, b.dense)


@pytest.mark.slow
@pytest.mark.parametrize('memory', [(3000, 2000), (500 << 20, 1 << 30)])
def test_a_run_cut_off_while_encoding_goes_on_with_other_memory(
  tmp_path, monkeypatch, memory
):
  files = inputs(tmp_path)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  pipeline.prepare_set(
    job, str(tmp_path / 'whole'), MEMORY, stage=units.in_process
  )
  small = resources.Resources(MEMORY, 1, 2000, 3000)
  monkeypatch.setattr(pipeline, 'divided', lambda *args: small)

  def cut(name, function, todo):
    units.in_process(name, function, todo[:2] if name == 'encode' else todo)
    if name == 'encode':
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    pipeline.prepare_set(job, str(tmp_path / 'cut'), MEMORY, stage=cut)
  other = resources.Resources(MEMORY, 1, *memory)
  monkeypatch.setattr(pipeline, 'divided', lambda *args: other)
  pipeline.prepare_set(
    job, str(tmp_path / 'cut'), MEMORY, stage=units.in_process
  )
  same_files(tmp_path / 'whole', tmp_path / 'cut')


def test_work_without_a_plan_is_begun_anew(tmp_path):
  files = inputs(tmp_path)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  stage = interrupted_after(20)
  with pytest.raises(KeyboardInterrupt):
    pipeline.prepare_set(job, str(tmp_path / 'set'), MEMORY, stage=stage)
  (tmp_path / 'set.unfinished' / 'plan.json').unlink()
  job = criteo.criteo_preparation({'all': files}, CriteoSettings(min_count=20))
  pipeline.prepare_set(
    job, str(tmp_path / 'set'), MEMORY, stage=units.in_process
  )
  pipeline.prepare_set(
    job, str(tmp_path / 'whole'), MEMORY, stage=units.in_process
  )
  same_files(tmp_path / 'whole', tmp_path / 'set')


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
  job = criteo.criteo_preparation(
    {'all': inputs(tmp_path, 1)}, CriteoSettings()
  )
  (tmp_path / 'set.unfinished').mkdir()
  (tmp_path / 'set.unfinished' / 'mine.txt').touch()
  with pytest.raises(InputError, match='is no unfinished work of prepare'):
    pipeline.prepare_set(
      job, str(tmp_path / 'set'), MEMORY, stage=units.in_process
    )
  pipeline.prepare_set(job, str(tmp_path / 'a'), MEMORY, stage=units.in_process)
  (tmp_path / 'a' / 'notes.md').touch()
  with pytest.raises(InputError, match=r'notes\.md is no file of the'):
    pipeline.prepare_set(
      job, str(tmp_path / 'a'), MEMORY, True, stage=units.in_process
    )


def test_files_that_changed_meanwhile_are_not_gone_on_with(tmp_path):
  files = inputs(tmp_path)
  job = criteo.criteo_preparation({'all': files}, CriteoSettings())
  with pytest.raises(KeyboardInterrupt):
    pipeline.prepare_set(
      job, str(tmp_path / 'set'), MEMORY, stage=interrupted_after(2)
    )
  os.utime(files[0], ns=(0, 0))
  with pytest.raises(InputError, match='other files'):
    pipeline.prepare_set(
      job, str(tmp_path / 'set'), MEMORY, stage=units.in_process
    )


def test_a_damaged_vocabulary_is_found(tmp_path):
  files = inputs(tmp_path)
  known = prepare_criteo(
    {'all': files[:1]}, str(tmp_path / 'a'), CriteoSettings()
  )
  folder = tmp_path / 'a' / 'vocabulary'
  other = (folder / 'C4.parquet').read_bytes()
  for damage in (other, b'cut', None):
    if damage is None:
      (folder / 'C3.parquet').unlink()
    else:
      (folder / 'C3.parquet').write_bytes(damage)
    job = preparation_with(known, {'test': files[1:]}, Settings(splits=None))
    with pytest.raises(InputError, match=r'C3\.parquet: damaged'):
      pipeline.prepare_set(
        job, str(tmp_path / 'b'), MEMORY, True, stage=units.in_process
      )


def test_a_feature_may_have_no_value_that_is_seen_enough(tmp_path):
  files = inputs(tmp_path, 1)
  options = CriteoSettings(min_count=10**6)
  made = prepare_criteo({'all': files}, str(tmp_path / 's'), options)
  assert {column.rows for column in made.schema.sparse} == {1}
  assert not whole(made.source('test')).ids.any()


def test_a_vocabulary_that_ids_cannot_count_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(vocabularies, 'MAX_ROWS', 10)
  job = criteo.criteo_preparation(
    {'all': inputs(tmp_path, 1)}, CriteoSettings()
  )
  with pytest.raises(
    InputError, match=r'column C1: \d+ rows; expected at most'
  ):
    pipeline.prepare_set(
      job, str(tmp_path / 'set'), MEMORY, stage=units.in_process
    )


def test_keys_are_shared_by_more_tables_than_a_byte_counts():
  keys = np.arange(100_000, dtype=np.uint32)
  owner = coder.share_of(keys, 1000)
  assert np.bincount(owner, minlength=1000).min() > 50
  assert owner.max() == 999


def test_memory_and_workers_are_those_of_the_container(monkeypatch):
  monkeypatch.setattr(machine, 'free_memory', lambda: 8 << 30)
  monkeypatch.setattr(machine, 'cores', lambda: 3)
  assert resources.default_memory() == 4 << 30
  assert resources.divided(100 << 30, 160).workers == 3


def at_once(function, unit):
  """Two workers do a unit at the same time."""
  start = threading.Barrier(2)

  def do():
    start.wait()
    function(unit)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for future in [pool.submit(do) for _ in range(2)]:
      future.result()


def test_a_unit_may_be_done_twice_at_once(tmp_path):
  path = tmp_path / 'part.arrow'
  pl.DataFrame({'C': pl.Series(range(999), dtype=pl.UInt32)}).write_ipc(path)
  part = Slice(path, 'train', 0, 999, True)
  counted = Count(
    (Sparse('C'),), (part,), 0, Values(), False, mark_of(tmp_path, 0)
  )
  paths = (tmp_path / 'C1', tmp_path / 'C2')
  drawn = multi_hot.Draw(paths, (7, 500), (2, 1), tmp_path / 'drawn.json')
  merged = Merge(
    *('C', tmp_path, 1, 'frequency', 1, 1 << 20),
    vocabulary=tmp_path / 'C.parquet',
    output=tmp_path / 'C.json',
  )
  for function, unit in ((count_values, counted), (multi_hot.draw_bags, drawn)):
    at_once(function, unit)
    assert unit.sound()
  at_once(merge_runs, merged)
  assert merged.sound()


def test_a_set_may_lie_in_a_folder_of_any_name(tmp_path, capsys):
  folder = tmp_path / 'a[1]*?{b}'
  folder.mkdir()
  text = scored.csv_of(scored.rows_of(0))
  data = scored.prepared(folder, scored.RAW, text)
  assert inspect([str(data)]) == 0
  assert '400 rows' in capsys.readouterr().out
  run = scored.made(tmp_path / 'run', scored.config_of(data))
  model = dlrm_jax.load(scored.exported(run, folder / 'export'))
  assert 'é' in model.vectors('word')['value']
  rows = scored.columns_of(scored.rows_of(0), model.intake.schema)
  assert model.predict(rows).shape == (400,)
