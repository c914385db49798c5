import functools
import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.structured.movielens import Movielens

from dlrm_jax.batch import PAD
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.data.unknown import unknown_rows
from dlrm_jax.errors import InputError
from dlrm_jax.prepare.__main__ import main
from dlrm_jax.prepare.known_ids import read_raw
from dlrm_jax.prepare.movielens import archive as movielens_archive
from dlrm_jax.prepare.movielens import movielens_reader
from dlrm_jax.prepare.movielens.archive import url_of
from dlrm_jax.prepare.movielens.movielens_reader import in_time_order
from tests.archives import unpack

ROOT = Path(__file__).resolve().parents[2]

# Of ten ratings in time order, the first eight are to train. 7 and 30 are new
# in the last two; movie 20's title has no year.
RATINGS = [  # user, movie, rating, seconds since 1970
  (1, 10, 5, 883_612_800),
  (1, 20, 3, 883_612_800),
  (2, 10, 4, 883_612_801),
  (1, 40, 4, 883_612_802),
  (2, 20, 1, 883_612_803),
  (2, 40, 2, 883_612_804),
  (3, 10, 5, 883_612_805),
  (3, 20, 4, 883_612_806),
  (7, 10, 2, 883_612_807),
  (7, 30, 5, 883_612_808),
]
MOVIES = {
  10: ('First, The (1995)', ('Action', 'Comedy', 'War')),
  20: ('No Year', ('Drama',)),
  30: ('New (1998)', ('Action',)),
  40: ('Été (1990) ', ('Comedy', 'Drama')),
}
PEOPLE = {1: ('M', 25), 2: ('F', 35), 3: ('F', 25), 7: ('M', 1)}
GENRES_100K = (
  'Unknown', 'Action', 'Adventure', 'Animation', 'Children', 'Comedy', 'Crime',
  'Documentary', 'Drama', 'Fantasy', 'Film-Noir', 'Horror', 'Musical',
  'Mystery', 'Romance', 'Sci-Fi', 'Thriller', 'War', 'Western',
)  # fmt: skip


def shuffled():
  return [RATINGS[i] for i in np.random.default_rng(0).permutation(10)]


def latest_small():
  movies = ''.join(
    f'{movie},"{title}",{"|".join(genres)}\n'
    for movie, (title, genres) in MOVIES.items()
  )
  ratings = ''.join(f'{u},{m},{r:.1f},{t}\n' for u, m, r, t in shuffled())
  return {
    'movies.csv': 'movieId,title,genres\n' + movies,
    'ratings.csv': 'userId,movieId,rating,timestamp\n' + ratings,
  }


def one_million():
  return {
    'movies.dat': ''.join(
      f'{m}::{title}::{"|".join(g)}\n' for m, (title, g) in MOVIES.items()
    ),
    'users.dat': ''.join(
      f'{user}::{gender}::{age}::{user}::12345\n'
      for user, (gender, age) in PEOPLE.items()
    ),
    'ratings.dat': ''.join(
      f'{u}::{m}::{r}::{t}\n' for u, m, r, t in shuffled()
    ),
  }


def hundred_thousand():
  return {
    'u.item': ''.join(
      f'{m}|{title}|01-Jan-1995||http://x|'
      + '|'.join('01'[g in genres] for g in GENRES_100K)
      + '\n'
      for m, (title, genres) in MOVIES.items()
    ),
    'u.user': ''.join(
      f'{user}|{age + 1}|{gender}|writer|12345\n'
      for user, (gender, age) in PEOPLE.items()
    ),
    'u.data': ''.join(f'{u}\t{m}\t{r}\t{t}\n' for u, m, r, t in shuffled()),
  }


FORMATS = {
  'latest-small': (latest_small, 'utf-8'),
  '1m': (one_million, 'iso-8859-1'),
  '100k': (hundred_thousand, 'iso-8859-1'),
}


@pytest.fixture
def archive(tmp_path, monkeypatch):
  """Makes a small archive, and TFDS take it for GroupLens's."""

  def make(kind):
    files, encoding = FORMATS[kind]
    path = tmp_path / f'own-{kind}.zip'
    with zipfile.ZipFile(path, 'w') as packed:
      for name, text in files().items():
        packed.writestr(f'ml-{kind}/{name}', text.encode(encoding))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    info = UrlInfo(path.stat().st_size, digest, f'ml-{kind}.zip')
    monkeypatch.setitem(Movielens.url_infos, url_of(f'{kind}-ratings'), info)
    return path

  return make


def flags_of(name, output, archive=None):
  flags = ['movielens', f'--name={name}', f'--output={output}']
  return flags if archive is None else [*flags, f'--input={archive}']


def prepare(name, output, archive=None, *more):
  """The command; its message where it refuses."""
  assert main([*flags_of(name, output, archive), *more]) == 0
  return open_prepared(output)


@pytest.fixture
def made(archive, tmp_path):
  def make(kind, *more):
    output = tmp_path / 'prepared'
    return prepare(f'{kind}-ratings', output, archive(kind), *more)

  return make


def column(prepared, split, name):
  start = 0
  for sparse in prepared.schema.sparse:
    if sparse.name == name:
      ids = prepared.source(split)[0].ids
      return ids[:, start : start + sparse.hotness].tolist()
    start += sparse.hotness
  raise KeyError(name)


@pytest.mark.parametrize('kind', FORMATS)
def test_ratings_become_clicks_in_time_order(made, kind):
  prepared = made(kind)
  assert prepared.splits == {'train': 8, 'validation': 1, 'test': 1}
  labels = [
    prepared.source(s)[0].labels[:, 0].tolist() for s in prepared.splits
  ]
  assert labels == [[1, 0, 1, 1, 0, 0, 1, 1], [0], [1]]
  assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize('kind', FORMATS)
def test_ids_go_by_count_in_the_training_rows_and_new_ones_to_row_0(made, kind):
  prepared = made(kind)
  # Three ratings each of users 1 and 2, two of 3; movies 10, 20: 3; 40: 2.
  users = column(prepared, 'train', 'user')
  assert users == [[1], [1], [2], [1], [2], [2], [3], [3]]
  movies = column(prepared, 'train', 'movie')
  assert movies == [[1], [2], [1], [3], [2], [3], [1], [2]]
  assert column(prepared, 'validation', 'user') == [[0]]
  assert column(prepared, 'validation', 'movie') == [[1]]
  assert column(prepared, 'test', 'movie') == [[0]]
  assert column(prepared, 'test', 'user') == [[0]]
  assert {row.row for row in unknown_rows(prepared).values()} == {0}
  assert 'genres' not in unknown_rows(prepared)


def test_rare_ids_share_row_0(made):
  prepared = made('latest-small', '--min_count=3')
  users = column(prepared, 'train', 'user')
  assert users == [[1], [1], [2], [1], [2], [2], [0], [0]]


@pytest.mark.parametrize('kind', FORMATS)
def test_genres_are_bags_of_variable_length(made, kind):
  prepared = made(kind)
  names = [*prepared.details['format']['genres'], None]  # PAD is -1
  assert names[PAD] is None
  bags = [
    [names[genre] for genre in bag]
    for bag in column(prepared, 'train', 'genres')
  ]
  assert bags[:4] == [
    ['Action', 'Comedy', 'War'],
    ['Drama', None, None],
    ['Action', 'Comedy', 'War'],
    ['Comedy', 'Drama', None],
  ]


def test_release_years_come_from_titles(made):
  prepared = made('latest-small')
  words = pl.read_parquet(
    Path(prepared.directory) / 'vocabulary' / 'release.parquet'
  )
  # Three rows of no year and of 1995, two of 1990.
  assert words['key'].to_list() == [None, 1995, 1990]
  assert column(prepared, 'train', 'release')[:4] == [[2], [1], [2], [3]]
  assert column(prepared, 'test', 'release') == [[0]]


def test_dense_features_count_what_was_rated_in_earlier_seconds(made):
  prepared = made('latest-small')
  assert prepared.schema.dense == ('user_ratings', 'movie_ratings', 'movie_age')
  dense = np.expm1(prepared.source('train')[0].dense)
  np.testing.assert_allclose(dense[:, 0], [0, 0, 0, 2, 1, 2, 0, 1], atol=1e-5)
  np.testing.assert_allclose(dense[:, 1], [0, 0, 1, 0, 1, 1, 2, 2], atol=1e-5)
  ages = [3, 0, 3, 8, 0, 8, 3, 0]  # all were rated on 1 January 1998
  np.testing.assert_allclose(dense[:, 2], ages, atol=0.01)
  test = np.expm1(prepared.source('test')[0].dense)
  np.testing.assert_allclose(test, [[1, 0, 0]], atol=0.01)


@pytest.mark.parametrize('kind', ['1m', '100k'])
def test_people_are_features_where_they_are_known(made, kind):
  prepared = made(kind)
  names = [sparse.name for sparse in prepared.schema.sparse]
  assert names == [
    'user', 'movie', 'release', 'gender', 'age', 'occupation', 'genres'
  ]  # fmt: skip
  # Five training rows are of women, three of a man; 25 is as often as 35 + 2.
  gender = [[2], [2], [1], [2], [1], [1], [1], [1]]
  assert column(prepared, 'train', 'gender') == gender
  assert column(prepared, 'train', 'age') == [
    [1], [1], [2], [1], [2], [2], [1], [1]
  ]  # fmt: skip
  assert column(prepared, 'validation', 'age') == [[0]]


@pytest.mark.parametrize('kind', ['1m', 'latest-small'])
def test_sets_of_an_earlier_version_read_raw_archives(archive, tmp_path, kind):
  unpack(ROOT / 'tests/old/movielens_by_f1a4081.tar.gz', tmp_path)
  old = open_prepared(tmp_path / f'movielens-{kind}')
  assert 'format' not in old.details
  (block,) = read_raw(old, [str(archive(kind))])
  parts = [old.source(split)[0] for split in old.splits]
  np.testing.assert_array_equal(
    block.dense, np.concatenate([part.dense for part in parts])
  )
  np.testing.assert_array_equal(
    block.ids, np.concatenate([part.ids for part in parts])
  )
  np.testing.assert_array_equal(
    block.labels, np.concatenate([part.labels for part in parts])
  )
  assert unknown_rows(old).keys() == {
    column.name for column in old.schema.sparse if column.name != 'genres'
  }
  (tmp_path / f'movielens-{kind}/vocabulary/user.parquet').write_bytes(b'cut')
  with pytest.raises(InputError, match=r'user\.parquet: damaged'):
    next(read_raw(old, [str(archive(kind))]))


def test_frames_are_cut_alike_wherever_the_cut_is(made, archive, monkeypatch):
  prepared = made('latest-small')
  path = str(archive('latest-small'))
  (whole,) = read_raw(prepared, [path])
  monkeypatch.setattr(movielens_reader, 'FRAME_ROWS', 3)
  (parts,) = read_raw(prepared, [path])
  np.testing.assert_array_equal(whole.ids, parts.ids)
  np.testing.assert_array_equal(whole.dense, parts.dense)


def test_ratings_of_one_second_are_in_the_order_of_user_and_movie():
  ratings = pl.DataFrame(
    {'user': [2, 1, 1], 'movie': [5, 6, 5], 'rating': 3.0, 'timestamp': 9}
  )
  frame = in_time_order(ratings)
  assert frame.select('user', 'movie').rows() == [(1, 5), (1, 6), (2, 5)]
  assert frame['user_ratings'].to_list() == [0, 0, 0]


def test_tfds_downloads_where_there_is_a_network(
  archive, tmp_path, monkeypatch
):
  path = archive('latest-small')
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)
  )
  monkeypatch.setattr(handler.func, 'log_message', lambda *_: None)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/{path.name}'
    known = Movielens.url_infos[url_of('latest-small-ratings')]
    monkeypatch.setitem(Movielens.url_infos, url, known)
    got = movielens_archive.download(url, tmp_path / 'downloads')
    before = Path(got).stat().st_mtime_ns
    other = UrlInfo(known.size, '0' * 64, known.filename)
    monkeypatch.setitem(Movielens.url_infos, url, other)
    with pytest.raises(InputError, match='changed since TFDS'):
      movielens_archive.download(url, tmp_path / 'again')
    server.shutdown()
  monkeypatch.setitem(Movielens.url_infos, url, known)
  # Without the server, what was downloaded is still there.
  assert movielens_archive.download(url, tmp_path / 'downloads') == got
  assert Path(got).stat().st_mtime_ns == before
  assert Path(got).read_bytes() == path.read_bytes()


def test_without_a_network_the_address_is_told(tmp_path, monkeypatch):
  url = 'http://127.0.0.1:1/ml.zip'
  monkeypatch.setitem(Movielens.url_infos, url, UrlInfo(1, '0' * 64, 'ml.zip'))
  with pytest.raises(InputError, match=r'1/ml.zip cannot .* --input=FILE'):
    movielens_archive.download(url, tmp_path)


def refused(capsys, *flags):
  assert main(flags_of(*flags)) == 1
  return capsys.readouterr().err


def test_another_archive_is_refused_and_nothing_left(tmp_path, capsys):
  path, output = tmp_path / 'ml.zip', tmp_path / 'prepared'
  path.write_bytes(b'not it')
  line = refused(capsys, '20m-ratings', output, path)
  assert 'ml-20m.zip: its sha256 is ' in line
  assert list(tmp_path.iterdir()) == [path]


def test_a_missing_archive_is_told(tmp_path, capsys):
  line = refused(capsys, '1m-ratings', tmp_path / 'out', tmp_path / 'none.zip')
  assert 'No such file or directory; expected the archive' in line


@pytest.mark.parametrize('name', ['latest-small', '1m-movies', ''])
def test_a_name_without_ratings_is_told(name, tmp_path, capsys):
  line = refused(capsys, name, tmp_path / 'out')
  assert f'{name!r}; expected one of ' in line
  assert '25m-ratings' in line


def real(real_data):
  path = real_data / 'movielens/ml-latest-small.zip'
  if not path.exists():
    pytest.skip(f'{path} is not there')
  return path


def test_the_genuine_archive(real_data, tmp_path):
  prepared = prepare('latest-small-ratings', tmp_path / 'a', real(real_data))
  assert prepared.splits == {
    'train': 80_669,
    'validation': 10_084,
    'test': 10_083,
  }
  rows = {sparse.name: sparse.rows for sparse in prepared.schema.sparse}
  assert rows == {'user': 523, 'movie': 7868, 'release': 106, 'genres': 21}
  assert prepared.clicks['test'] == 4127


def test_a_killed_run_goes_on_to_the_same_set(real_data, tmp_path):
  path = real(real_data)
  flags = flags_of('latest-small-ratings', tmp_path / 'cut', path)
  process = subprocess.Popen(
    [sys.executable, '-m', 'dlrm_jax.prepare', *flags],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
  )
  parsed = tmp_path / 'cut.unfinished' / 'spool' / '000000.json'
  while not parsed.exists():
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (tmp_path / 'cut').exists()
  cut = prepare('latest-small-ratings', tmp_path / 'cut', path)
  whole = prepare('latest-small-ratings', tmp_path / 'whole', path)
  assert cut.fingerprint == whole.fingerprint
  for file in (tmp_path / 'whole').glob('click_log-*'):
    assert file.read_bytes() == (tmp_path / 'cut' / file.name).read_bytes()
