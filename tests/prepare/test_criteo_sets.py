"""Raw Criteo logs -> prepared sets, checked against plain Python."""

import bz2
import collections
import functools
import gzip
import lzma
import math
import zipfile

import numpy as np
import pytest

from dlrm_jax.data.loader import evaluation_batches
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.schema import join
from dlrm_jax.data.unknown import UnknownIds, unknown_rows
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import pipeline, resources
from dlrm_jax.prepare.criteo import settings as criteo
from dlrm_jax.prepare.criteo.criteo_rows import SPARSE
from dlrm_jax.prepare.known_ids import read_raw
from dlrm_jax.prepare.readers import text_files
from tests.sets import prepare_criteo

PACK = {'.gz': gzip.compress, '.bz2': bz2.compress, '.xz': lzma.compress}
Options = functools.partial(criteo.CriteoSettings, shuffle=False)


def make_rows(count, seed=0):
  """Rows as lists of text; ids are skewed, some are missing, some late."""
  rng = np.random.default_rng(seed)
  rows = []
  for number in range(count):
    ints = [str(x - 3) if x else '' for x in rng.geometric(0.1, 13) - 1]
    ids = rng.zipf(1.5, 26) % (50 + number) + (number > count // 2) * 3
    cats = [f'{x:08x}' if x % 7 else '' for x in ids.tolist()]
    rows.append([str(int(rng.random() < 0.3)), *ints, *cats])
  return rows


def save(path, rows, end='\n'):
  text = ''.join('\t'.join(row) + end for row in rows).encode()
  if path.suffix == '.zip':
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('a.txt', text)
  else:
    path.write_bytes(PACK.get(path.suffix, bytes)(text))
  return str(path)


def whole(source):
  return join([source[i] for i in range(len(source))])


def vocabulary(train, column, min_count=1):
  """Row by value, the plain way."""
  counts = collections.Counter(row[14 + column] for row in train)
  kept = sorted(
    (key for key in counts if counts[key] >= min_count),
    key=lambda key: (-counts[key], key),
  )
  return {key: row for row, key in enumerate(kept, 1)}


def check(block, rows, vocabularies):
  np.testing.assert_array_equal(
    block.labels[:, 0], [float(row[0]) for row in rows]
  )
  dense = [[math.log(max(int(x or 0), 0) + 1) for x in r[1:14]] for r in rows]
  np.testing.assert_allclose(block.dense, dense, rtol=2e-7)
  ids = [
    [v.get(x, 0) for v, x in zip(vocabularies, row[14:], strict=True)]
    for row in rows
  ]
  np.testing.assert_array_equal(block.ids, ids)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(text_files, 'CHUNK_BYTES', 50_000)


@pytest.mark.parametrize('min_count', [1, 4])
def test_ids_are_counted_in_the_training_rows_only(tmp_path, min_count):
  rows = make_rows(1000)
  raw = save(tmp_path / 'raw.txt', rows)
  options = Options(min_count=min_count)
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  assert prepared.splits == {'train': 858, 'validation': 71, 'test': 71}
  vocabularies = [vocabulary(rows[:858], c, min_count) for c in range(26)]
  tables = [column.rows for column in prepared.schema.sparse]
  assert tables == [len(v) + 1 for v in vocabularies]
  for split, cut in (
    ('train', rows[:858]),
    ('validation', rows[858:929]),
    ('test', rows[929:]),
  ):
    check(whole(prepared.source(split)), cut, vocabularies)
  assert (whole(prepared.source('test')).ids == 0).any()
  train = whole(prepared.source('train')).ids
  for number, name in enumerate(SPARSE):
    counted = prepared.details['columns'][name]
    assert counted['unknown'] == (train[:, number] == 0).sum()
    assert counted['missing'] == sum(not r[14 + number] for r in rows[:858])


def test_packed_parts_with_windows_ends_are_the_same_set(tmp_path):
  rows = make_rows(500)
  one = prepare_criteo(
    {'all': [save(tmp_path / 'a', rows)]}, str(tmp_path / 'one'), Options()
  )
  parts = [
    save(tmp_path / 'b.gz', rows[:123]),
    save(tmp_path / 'c', rows[123:200], end='\r\n'),
    save(tmp_path / 'd.bz2', rows[200:290]),
    save(tmp_path / 'e.xz', rows[290:400]),
    save(tmp_path / 'f.zip', rows[400:]),
  ]
  two = prepare_criteo({'all': parts}, str(tmp_path / 'two'), Options())
  assert two.schema == one.schema
  for split in one.splits:
    a, b = whole(one.source(split)), whole(two.source(split))
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.dense, b.dense)
  names = [file['name'] for file in two.details['files']]
  assert names == ['b.gz', 'c', 'd.bz2', 'e.xz', 'f.zip']


def test_separate_files_are_the_splits(tmp_path):
  rows = make_rows(300)
  inputs = {
    'train': [
      save(tmp_path / 'a', rows[:100]),
      save(tmp_path / 'b', rows[100:200]),
    ],
    'test': [save(tmp_path / 'c', rows[200:])],
  }
  prepared = prepare_criteo(inputs, str(tmp_path / 'set'), Options(splits=None))
  assert prepared.splits == {'train': 200, 'test': 100}
  vocabularies = [vocabulary(rows[:200], c) for c in range(26)]
  check(whole(prepared.source('test')), rows[200:], vocabularies)


def test_hashed_ids_need_no_vocabulary(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(100))
  output = tmp_path / 'set'
  prepared = prepare_criteo({'all': [raw]}, str(output), Options(hash_rows=50))
  assert {column.rows for column in prepared.schema.sparse} == {50}
  assert 'splitmix64' in prepared.details['hash']
  assert not (output / 'vocabulary').exists()
  ids = np.concatenate([b.ids for b in read_raw(prepared, [raw])])
  np.testing.assert_array_equal(ids[:86], whole(prepared.source('train')).ids)


def test_a_raw_file_is_read_in_the_training_vocabularies(tmp_path):
  rows = make_rows(600)
  raw = save(tmp_path / 'raw', rows)
  prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), Options(min_count=2))
  prepared = open_prepared(tmp_path / 'set')
  vocabularies = [vocabulary(rows[:515], c, 2) for c in range(26)]
  other = make_rows(200, seed=1)
  blocks = list(read_raw(prepared, [raw, save(tmp_path / 'other', other)]))
  check(join(blocks), rows + other, vocabularies)


def test_equal_runs_have_equal_fingerprints(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(100))
  prints = [
    prepare_criteo({'all': [raw]}, str(tmp_path / name), options).fingerprint
    for name, options in (
      ('a', Options()),
      ('b', Options()),
      ('c', Options(min_count=2)),
    )
  ]
  assert prints[0] == prints[1] != prints[2]


def test_skipped_rows_are_counted_and_the_others_kept(tmp_path):
  rows = make_rows(400)
  dirty = [list(row) for row in rows]
  dirty[30][0] = '2'
  dirty[31][0] = 'x'
  dirty[200][5] = '1.5'
  dirty[399][39] = 'zz'
  good = [row for i, row in enumerate(rows) if i not in (30, 31, 200, 399)]
  raw = save(tmp_path / 'raw', dirty)
  options = Options(on_bad_row='skip', splits='train=1')
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  vocabularies = [vocabulary(good, c) for c in range(26)]
  check(whole(prepared.source('train')), good, vocabularies)
  assert prepared.details['bad_rows'] == {
    'bad label': 2,
    'non-integer': 1,
    'non-hex category': 1,
  }
  told = '\n'.join(prepared.details['skipped'])
  assert "raw, line 31, column label: bad label: '2'" in told
  assert "raw, line 201, column I5: non-integer: '1.5'" in told
  assert "raw, line 400, column C26: non-hex category: 'zz'" in told


def test_a_bad_row_stops_and_leaves_nothing(tmp_path):
  rows = make_rows(300)
  rows[250][3] = '+1'
  raw = save(tmp_path / 'raw', rows)
  why = r"raw, line 251, column I3: non-integer: '\+1'; expected an integer"
  with pytest.raises(InputError, match=why):
    prepare_criteo({'all': [raw]}, str(tmp_path / 'set'))
  assert [path.name for path in tmp_path.iterdir()] == ['raw']


def test_a_truncated_gzip_keeps_the_rows_before_when_skipping(tmp_path):
  rows = make_rows(600)
  raw = tmp_path / 'raw.gz'
  save(raw, rows)
  raw.write_bytes(raw.read_bytes()[: raw.stat().st_size // 2])
  with pytest.raises(InputError, match='damaged gzip'):
    prepare_criteo({'all': [str(raw)]}, str(tmp_path / 'set'))
  options = Options(on_bad_row='skip', splits='train=1')
  prepared = prepare_criteo({'all': [str(raw)]}, str(tmp_path / 'set'), options)
  kept = prepared.splits['train']
  assert 100 < kept < 500
  assert prepared.details['bad_rows'] == {'damaged gzip': 1}
  lost = f'LOST: the rest of raw.gz, all that follows line {kept:,} (the gzip'
  assert prepared.details['skipped'][0].startswith(lost)
  vocabularies = [vocabulary(rows[:kept], c) for c in range(26)]
  check(whole(prepared.source('train')), rows[:kept], vocabularies)


def test_what_an_unfinished_run_has_lost_stops_one_that_must_not_skip(
  tmp_path, monkeypatch
):
  raw = tmp_path / 'raw.gz'
  save(raw, make_rows(300))
  raw.write_bytes(raw.read_bytes()[:-9])
  output = str(tmp_path / 'set')

  def run(bad):
    job = criteo.criteo_preparation(
      {'all': [str(raw)]}, Options(on_bad_row=bad)
    )
    pipeline.prepare_set(job, output, resources.default_memory())

  with monkeypatch.context() as patch:
    patch.setattr(pipeline.number, 'make_vocabularies', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run('skip')
  with pytest.raises(InputError, match=r'LOST: the rest of raw.gz'):
    run('stop')
  run('skip')
  assert open_prepared(output).splits


def test_a_split_without_rows_is_refused(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(5))
  with pytest.raises(InputError, match='split validation would have no rows'):
    prepare_criteo({'all': [raw]}, str(tmp_path / 'set'))


def test_another_kind_of_set_reads_no_raw_criteo(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(50))
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'))
  del prepared.details['format']
  prepared.details['kind'] = 'other'
  with pytest.raises(InputError, match='was prepared from other'):
    next(read_raw(prepared, [raw]))


def test_the_sample_of_kaggle_is_cut_as_published(
  real_data, tmp_path, monkeypatch
):
  monkeypatch.undo()
  raw = real_data / 'criteo_kaggle_sample' / 'train.txt'
  prepared = prepare_criteo({'all': [str(raw)]}, str(tmp_path / 'set'))
  assert prepared.splits == {'train': 100573, 'validation': 8381, 'test': 8381}
  assert sum(prepared.clicks.values()) / 117_335 == pytest.approx(
    0.257, abs=1e-3
  )
  ids = np.concatenate([b.ids for b in read_raw(prepared, [str(raw)])])
  np.testing.assert_array_equal(ids[-8381:], whole(prepared.source('test')).ids)


def test_the_share_of_unknown_ids_in_training_is_known(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(400))
  options = Options(min_count=3, splits='train=1/2,test=1/2')
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  rows = unknown_rows(prepared)
  train = whole(prepared.source('train')).ids
  assert (train == 0).any()
  for number, name in enumerate(SPARSE):
    assert rows[name].row == 0
    share = rows[name].unknown / rows[name].ids
    assert share == pytest.approx((train[:, number] == 0).mean())
  counted = UnknownIds(prepared.schema, rows)
  for batch in evaluation_batches(prepared.source('train'), 50):
    list(counted.watch([batch]))
  assert counted.shares().now == pytest.approx(counted.shares().training)


def test_the_share_is_known_of_sets_that_do_not_say_the_total(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(400))
  options = Options(min_count=3, splits='train=1/2,test=1/2')
  prepared = prepare_criteo({'all': [raw]}, str(tmp_path / 'set'), options)
  said = unknown_rows(prepared)
  for counted in prepared.details['columns'].values():
    assert counted.pop('total') == 200
  assert unknown_rows(prepared) == said


def test_features_whose_ids_do_not_say_whether_they_are_known(tmp_path):
  raw = save(tmp_path / 'raw', make_rows(100))
  for options in (Options(hash_rows=9), Options('fb')):
    prepared = prepare_criteo(
      {'all': [raw]}, str(tmp_path / options.mode), options
    )
    assert not unknown_rows(prepared)
