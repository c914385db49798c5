"""Arrays of other programs give the rows that NumPy reads in them."""

import pickle

import numpy as np
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.fitting import Fit, fitting
from dlrm_jax.prepare.readers import array_files, arrays_reader
from dlrm_jax.prepare.readers.formats import reader_of, with_table_sizes
from dlrm_jax.prepare.readers.reader import NUMBER
from dlrm_jax.vocabulary.columns import Dense, Sparse

N = 53
SIZES = tuple(range(3, 29))


@pytest.fixture
def arrays():
  rng = np.random.default_rng(0)
  return {
    'y': rng.integers(0, 2, N, np.int32),
    'X_int': rng.integers(0, 1 << 20, (N, 13), np.int32),
    'X_cat': rng.integers(0, SIZES, (N, 26)).astype(np.int32),
  }


def turned(values):
  return np.asfortranarray(values)


def write_npz(path, arrays, packed=True, counts=SIZES):
  save = np.savez_compressed if packed else np.savez
  save(path, **arrays, **({'counts': np.array(counts)} if counts else {}))
  return str(path)


def write_bin(path, arrays, counts=SIZES):
  table = [arrays['y'][:, None], arrays['X_int'], arrays['X_cat']]
  np.concatenate(table, axis=1).astype('<i4').tofile(path)
  np.savez(path.parent / 'day_fea_count.npz', counts=np.array(counts))
  return str(path)


def write_npy(folder, arrays, sparse='sparse'):
  np.save(folder / 'day_0_labels.npy', arrays['y'][:, None])
  dense = np.log(arrays['X_int'] + np.float32(3))
  np.save(folder / 'day_0_dense.npy', dense.astype(np.float32))
  np.save(folder / f'day_0_{sparse}.npy', arrays['X_cat'])
  return str(folder / f'day_0_{sparse}.npy')


def read(raw, path, bad='stop'):
  """Rows as tuples, bad rows, and digests of all pieces."""
  reader = pickle.loads(pickle.dumps(reader_of(with_table_sizes(raw, [path]))))
  rows, found, digests = [], BadRows(bad), []
  for piece in reader.pieces(path):
    fit = Fit(reader.columns)
    for frame in fitting(reader, piece, found, digests.append, fit):
      rows += frame.rows()
  return rows, found, digests


def rows_of(arrays):
  table = [arrays['y'][:, None], arrays['X_int'], arrays['X_cat']]
  return [tuple(row) for row in np.concatenate(table, 1).tolist()]


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('order', [np.ascontiguousarray, turned])
def test_npz_is_read_as_numpy_reads_it(
  arrays, tmp_path, monkeypatch, packed, order
):
  # Less than a column at a time, and several pieces where they can be.
  monkeypatch.setattr(array_files, 'FRAME_ROWS', 10)
  monkeypatch.setattr(arrays_reader, '_PIECE_ROWS', 20)
  arrays['X_int'], arrays['X_cat'] = map(
    order, (arrays['X_int'], arrays['X_cat'])
  )
  path = write_npz(tmp_path / 'day.npz', arrays, packed)
  rows, _, digests = read({'format': 'fb_npz'}, path)
  assert rows == rows_of(arrays)
  assert len(digests) == 3 * 6
  reader = reader_of({'format': 'fb_npz', 'counts': path})
  assert len(reader.pieces(path)) == (1 if packed else 3)
  assert reader.about(path) == N


def test_a_large_compressed_array_is_read_in_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(array_files, '_COPIED_BYTES', 5000)
  monkeypatch.setattr(array_files, 'FRAME_ROWS', 7000)
  rows = 40_000
  rng = np.random.default_rng(0)
  arrays = {
    'y': np.zeros(rows, np.int64),
    'X_int': turned(np.tile(np.arange(rows, dtype=np.int32), (13, 1)).T),
    'X_cat': turned(rng.integers(0, 9, (26, rows), np.int32).T),
  }
  path = write_npz(tmp_path / 'day.npz', arrays, counts=(9,) * 26)
  reader = reader_of({'format': 'fb_npz', 'rows': [9] * 26})
  first = 0
  for frame in reader.read(reader.pieces(path)[0], BadRows(), bytes):
    part = slice(first, first + frame.height)
    table = frame.drop(NUMBER).to_numpy()
    np.testing.assert_array_equal(table[:, 1:14], arrays['X_int'][part])
    np.testing.assert_array_equal(table[:, 14:], arrays['X_cat'][part])
    first += frame.height
  assert first == rows


def test_fb_ids_are_rows_and_counts_are_logged(arrays, tmp_path):
  path = write_npz(tmp_path / 'day.npz', arrays)
  columns = reader_of({'format': 'fb_npz', 'counts': path}).columns
  assert columns.dense[12] == Dense('I13', 'log1p')
  assert columns.sparse[25] == Sparse('C26', 'rows', 28)
  assert with_table_sizes({'format': 'fb_npz'}, [path])['rows'] == SIZES


def test_bin_is_read_in_pieces_with_counts_beside(
  arrays, tmp_path, monkeypatch
):
  monkeypatch.setattr(arrays_reader, '_PIECE_ROWS', 20)
  path = write_bin(tmp_path / 'train_data.bin', arrays)
  assert read({'format': 'fb_bin'}, path)[0] == rows_of(arrays)
  said = with_table_sizes({'format': 'fb_bin'}, [path])
  assert [tuple(p)[1:] for p in reader_of(said).pieces(path)] == [
    (0, 20),
    (20, 40),
    (40, N),
  ]
  named = {'format': 'fb_bin', 'counts': str(tmp_path / 'day_fea_count.npz')}
  assert reader_of(named) == reader_of(said)
  assert reader_of(said).rows == SIZES


@pytest.mark.parametrize('part', ['labels', 'dense', 'sparse_contig_freq'])
def test_any_of_the_torchrec_files_may_be_named(arrays, tmp_path, part):
  write_npy(tmp_path, arrays, 'sparse_contig_freq')
  path = str(tmp_path / f'day_0_{part}.npy')
  rows, _, _ = read({'format': 'torchrec_npy'}, path)
  dense = np.load(tmp_path / 'day_0_dense.npy')
  np.testing.assert_array_equal([row[1:14] for row in rows], dense)
  assert [row[14:] for row in rows] == [row[14:] for row in rows_of(arrays)]
  columns = reader_of({'format': 'torchrec_npy'}).columns
  assert columns.dense[0] == Dense('I1', 'none')
  assert columns.sparse[0] == Sparse('C1', 'vocabulary')


@pytest.mark.parametrize('dtype', [np.int32, np.int64])
def test_torchrec_hashes_are_unsigned_in_either_type(arrays, tmp_path, dtype):
  arrays['X_cat'] = arrays['X_cat'].astype(np.int64)
  arrays['X_cat'][3, 4] = 0xFEDCBA98
  arrays['X_cat'] = arrays['X_cat'].astype(dtype)
  rows, _, _ = read({'format': 'torchrec_npy'}, write_npy(tmp_path, arrays))
  assert rows[3][18] == 0xFEDCBA98


def test_torchrec_ids_may_be_rows(arrays, tmp_path):
  path = write_npy(tmp_path, arrays)
  for rows in (28, list(SIZES)):
    raw = {'format': 'torchrec_npy', 'ids': 'rows', 'rows': rows}
    assert len(read(raw, path)[0]) == N
  raw['rows'][0] = int(arrays['X_cat'][:, 0].max())
  with pytest.raises(InputError, match=r'column C1: id out of range'):
    read(raw, path)


@pytest.mark.parametrize(
  ('name', 'at', 'value', 'words'),
  [
    ('y', 7, 2, ['row 8', 'column label', '2', '0 or 1']),
    ('X_cat', (7, 2), 5, ['row 8', 'column C3', '5', '0 ... 4']),
    ('X_cat', (52, 0), -1, ['row 53', 'column C1', '-1', '0 ... 2']),
  ],
)
@pytest.mark.parametrize('write', [write_npz, write_bin])
def test_a_bad_row_is_named(arrays, tmp_path, write, name, at, value, words):
  arrays[name][at] = value
  kind = write.__name__.replace('write', 'fb')
  path = write(tmp_path / f'day.{kind[3:]}', arrays)
  with pytest.raises(InputError) as error:
    read({'format': kind}, path)
  for word in (path, *words):
    assert word in str(error.value), word
  rows, bad, _ = read({'format': kind}, path, 'skip')
  assert rows == [row for row in rows_of(arrays) if row in rows]
  assert (len(rows), sum(bad.counts.values())) == (N - 1, 1)


@pytest.mark.parametrize('value', [np.nan, -np.inf])
def test_a_number_that_is_none_is_named_with_its_file(arrays, tmp_path, value):
  path = write_npy(tmp_path, arrays)
  dense = np.load(tmp_path / 'day_0_dense.npy')
  dense[9, 12] = value
  np.save(tmp_path / 'day_0_dense.npy', dense)
  match = rf'day_0_dense.npy, row 10, column I13.*{value}.*finite'
  with pytest.raises(InputError, match=match):
    read({'format': 'torchrec_npy'}, path)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'X_int': np.zeros((N, 12), int)}, ['X_int', f'({N}, 12)', '53 x 13']),
    ({'X_cat': np.zeros((9, 26), int)}, ['X_cat', '(9, 26)', '53 labels']),
    ({'X_cat': np.zeros((N, 26))}, ['X_cat', 'float64', 'integers']),
    ({'y': np.array(['a'] * N)}, ['y is <U1', 'numbers']),
    ({'y': np.zeros(0, int)}, ['y has no rows']),
    ({'X_int': np.array([[None]])}, ['not a whole file', 'object']),
  ],
)
def test_arrays_that_do_not_fit_are_named(arrays, tmp_path, changes, words):
  path = write_npz(tmp_path / 'day.npz', arrays | changes)
  with pytest.raises(InputError) as error:
    read({'format': 'fb_npz'}, path)
  for word in (path, *words):
    assert word in str(error.value), (word, str(error.value))


def test_a_missing_array_or_file_is_named(arrays, tmp_path):
  raw = {'format': 'fb_npz', 'rows': SIZES}
  del arrays['X_cat']
  path = write_npz(tmp_path / 'day.npz', arrays)
  with pytest.raises(InputError, match='no array X_cat'):
    read(raw, path)
  np.save(tmp_path / 'day_0_dense.npy', np.zeros((3, 13)))
  with pytest.raises(InputError, match=r'day_0_labels.npy: no such file'):
    read({'format': 'torchrec_npy'}, str(tmp_path / 'day_0_dense.npy'))
  with pytest.raises(InputError, match='one of three files'):
    read({'format': 'torchrec_npy'}, path)


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('order', [np.ascontiguousarray, turned])
def test_a_damaged_file_is_one_line(arrays, tmp_path, packed, order):
  arrays['X_cat'] = order(arrays['X_cat'])
  path = write_npz(tmp_path / 'day.npz', arrays, packed)
  data = (tmp_path / 'day.npz').read_bytes()
  (tmp_path / 'day.npz').write_bytes(data[:-30])
  raw = {'format': 'fb_npz', 'rows': SIZES}
  with pytest.raises(InputError, match='not a whole file of arrays'):
    read(raw, path)
  if packed:
    at = data.index(b'X_cat.npy') + 400
    (tmp_path / 'day.npz').write_bytes(data[:at] + bytes(9) + data[at + 9 :])
    with pytest.raises(InputError, match=r'X_cat\.npy (is|ends)'):
      read(raw, path)


def test_a_folder_that_cannot_take_a_compressed_array_is_named(
  arrays, tmp_path, monkeypatch
):
  path = write_npz(tmp_path / 'day.npz', arrays)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'absent'))
  with pytest.raises(InputError, match=r'npy .*/absent .* TMPDIR'):
    read({'format': 'fb_npz', 'rows': SIZES}, path)


def test_files_cut_short_are_named(arrays, tmp_path):
  for path in (
    write_bin(tmp_path / 'train.bin', arrays),
    write_npy(tmp_path, arrays),
  ):
    with open(path, 'r+b') as file:
      file.truncate(4003)
    kind = 'fb_bin' if path.endswith('bin') else 'torchrec_npy'
    with pytest.raises(InputError, match=r'4,003 bytes; expected'):
      read({'format': kind}, path)


@pytest.mark.parametrize(
  ('raw', 'words'),
  [
    ({'format': 'fb_npz', 'count': 'x'}, ["'count'", "'counts'"]),
    ({'format': 'fb_npz', 'counts': 'x.npz'}, ['x.npz: no such file']),
    ({'format': 'fb_npz', 'counts': 3}, ['counts is 3', 'name of a file']),
    ({'format': 'fb_npz', 'rows': [1, 2]}, ['rows is [1, 2]', '26 tables']),
    ({'format': 'fb_bin', 'rows': [0] * 26}, ['1 ... 2147483647']),
    ({'format': 'fb_bin'}, ['no counts', '_fea_count.npz']),
    ({'format': 'fb_bin', 'rows': 1, 'counts': 'x'}, ['rows and counts']),
    ({'format': 'torchrec_npy', 'ids': 'rows'}, ["'rows' with rows 0"]),
    ({'format': 'torchrec_npy', 'rows': 5}, ['rows 5', 'vocabulary']),
  ],
)
def test_a_mistake_in_the_config_is_one_clear_line(raw, words):
  with pytest.raises(InputError) as error:
    reader_of(raw)
  for word in words:
    assert word in str(error.value), (word, str(error.value))


def test_counts_that_are_no_sizes_or_of_other_files_are_refused(
  arrays, tmp_path
):
  path = write_npz(tmp_path / 'day.npz', arrays)
  with pytest.raises(InputError, match=r'counts has 4 ids of C2, but .* 9'):
    read({'format': 'fb_npz', 'rows': [3, 9, *SIZES[2:]]}, path)
  for counts in ((0, *SIZES[1:]), SIZES[1:], [0.5] * 26):
    write_npz(tmp_path / 'day.npz', arrays, counts=counts)
    with pytest.raises(InputError, match=r'counts .*expected'):
      reader_of({'format': 'fb_npz', 'counts': path})
  np.savez(tmp_path / 'x.npz', y=np.zeros(3))
  with pytest.raises(InputError, match='no array counts'):
    reader_of({'format': 'fb_npz', 'counts': str(tmp_path / 'x.npz')})
