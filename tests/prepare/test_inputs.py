"""Folders and globs -> the files of a log, in order."""

import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.inputs import expanded
from dlrm_jax.prepare.readers.formats import files_of


@pytest.fixture
def folder(tmp_path):
  for name in ('day_10', 'day_2', 'day_1'):
    (tmp_path / name).write_text('1')
  (tmp_path / '_SUCCESS').touch()
  (tmp_path / '.day_1.crc').write_text('1')
  (tmp_path / 'day_3').touch()  # Empty, as of a partition without rows.
  return tmp_path


def names(paths):
  return [path.rsplit('/', 1)[1] for path in paths]


def test_a_folder_is_its_files_in_the_order_of_their_numbers(folder):
  assert names(expanded([str(folder)])) == ['day_1', 'day_2', 'day_10']
  twice = expanded([f'{folder}/day_10', f'{folder}/'])
  assert names(twice) == ['day_10', 'day_1', 'day_2', 'day_10']


def test_a_glob_that_no_shell_has_replaced_is(folder):
  assert names(expanded([f'{folder}/day_?'])) == ['day_1', 'day_2']
  (folder / 'day_[1]').write_text('a name with brackets')
  assert names(expanded([f'{folder}/day_[1]'])) == ['day_[1]']
  with pytest.raises(InputError, match=r'night_\*: no such file, and nothing'):
    expanded([f'{folder}/night_*'])


def test_a_link_to_nothing_is_not_left_out(folder):
  (folder / 'day_4').symlink_to(folder / 'nowhere')
  assert names(expanded([str(folder)]))[2] == 'day_4'


def test_what_is_missing_is_left_for_the_reader_to_name(folder):
  assert expanded([f'{folder}/none']) == [f'{folder}/none']


def test_folders_that_are_no_log_are_refused(folder):
  (folder / 'date=2020-01-01').mkdir()
  with pytest.raises(InputError, match=r'has folders within .date=2020-01-01'):
    expanded([str(folder)])
  (folder / 'none').mkdir()
  with pytest.raises(InputError, match='none: a folder without files of a log'):
    expanded([f'{folder}/none'])
  (folder / 'none' / 'metadata.json').write_text('{}')
  with pytest.raises(InputError, match='none: a prepared set'):
    expanded([f'{folder}/none'])


@pytest.mark.parametrize(
  ('kind', 'there', 'logs'),
  [
    (
      'torchrec_npy',
      ['day_0_dense.npy', 'day_0_labels.npy', 'day_0_sparse.npy'],
      ['day_0_labels.npy'],
    ),
    ('fb_npz', ['day_0.npz', 'kaggle_fea_count.npz'], ['day_0.npz']),
    ('fb_bin', ['day_0.bin', 'day_fea_count.npz'], ['day_0.bin']),
    ('parquet', ['a.parquet', 'b.parquet'], ['a.parquet', 'b.parquet']),
  ],
)
def test_files_beside_a_log_of_arrays_are_not_logs(tmp_path, kind, there, logs):
  for name in there:
    (tmp_path / name).write_bytes(b'1')
  assert names(files_of(kind, [str(tmp_path)])) == logs
  assert files_of(kind, [there[0]]) == [there[0]]


def test_names_of_tfds_are_no_globs():
  assert files_of('tfds', ['movielens:0.*.*']) == ['movielens:0.*.*']
