"""MovieLens through TFDS's builder, without TensorFlow.

TFDS says where an archive comes from, which checksum it must have, what its
records hold and how they are kept. Two things it does with TensorFlow, and
they are done for it here: unpacking (the archive and its extracted folder are
put where it looks for them) and opening the files of the older formats.
"""

import contextlib
import importlib.util
import io
import itertools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tensorflow_datasets as tfds
from tensorflow_datasets.structured import movielens
from tqdm import tqdm

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.movielens.archive import check, download, unpack

PART_ROWS = 2_000_000
"""Ratings in a TFDS split: above 1 GB a split, TFDS needs TensorFlow."""

_READ = 4096

_PEOPLE = {
  'gender': 'user_gender',
  'age': 'bucketized_user_age',
  'occupation': 'user_occupation_label',
}


class Ratings(NamedTuple):
  """What a MovieLens data set holds, its ratings in no order.

  Attributes:
    ratings: frame of user u32, movie u32, rating f32, timestamp i64 (seconds).
    movies: frame of movie u32, title, genres (list of label numbers).
    users: frame of user u32, gender, age, occupation, each u32; only user
      where the data set says no more.
    genres: names of the genre labels.
    source: TFDS's name and version of it, the archive's address and sha256.
  """

  ratings: pl.DataFrame
  movies: pl.DataFrame
  users: pl.DataFrame
  genres: tuple[str, ...]
  source: dict[str, str]


def _parsers() -> types.ModuleType:
  """A copy of TFDS's parsing module whose files are opened by Python.

  TFDS's own stays as it is.
  """
  name = movielens.movielens_parsing.__name__
  spec = importlib.util.find_spec(name)
  if spec is None or spec.loader is None:
    raise ImportError(f'{name} has no source to load')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  files = types.SimpleNamespace(GFile=open)
  module.__dict__['tf'] = types.SimpleNamespace(
    io=types.SimpleNamespace(gfile=files)
  )
  return module


class _Builder(movielens.Movielens, skip_registration=True):
  """TFDS's builder, its one split cut in parts of `PART_ROWS`."""

  name = 'movielens'
  url_infos = movielens.Movielens.url_infos

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
    (whole,) = super()._split_generators(dl_manager)
    folder = Path(whole.gen_kwargs['dir_path'])
    total = _count(folder)
    parse = getattr(_parsers(), self.builder_config.parsing_fn.__name__)
    bar = tqdm(parse(folder), 'parse', total, unit=' rows', disable=None)
    rows = iter(bar)  # one for all parts
    return {
      f'part{start // PART_ROWS}': itertools.islice(rows, PART_ROWS)
      for start in range(0, total, PART_ROWS)
    }


def _count(folder: Path) -> int:
  """Ratings in an extracted archive."""
  for name, headings in (('ratings.csv', 1), ('ratings.dat', 0), ('u.data', 0)):
    if (folder / name).exists():
      with (folder / name).open('rb') as lines:
        return sum(1 for _ in lines) - headings
  raise InputError(f'{folder.name}: the archive has no ratings in it')


def url_of(name: str) -> str:
  """Where TFDS has the archive of a config of movielens from.

  Raises:
    InputError: no such config, or it has no ratings.
  """
  configs = movielens.Movielens.builder_configs
  known = [key for key in configs if key.endswith('-ratings')]
  if name not in known:
    raise InputError(
      f'movielens has no ratings named {name!r}; expected one of '
      f'{", ".join(known)}'
    )
  return str(configs[name].download_url)


def _records(builder: tfds.core.DatasetBuilder) -> Iterator[dict[str, Any]]:
  for source in builder.as_data_source().values():
    for start in range(0, len(source), _READ):
      # By the thousand: one by one takes five times as long.
      yield from source.__getitems__(
        range(start, min(start + _READ, len(source)))
      )


def _collect(builder: tfds.core.DatasetBuilder) -> Ratings:
  """Reads the records: numbers a rating, and each movie and user once."""
  total = builder.info.splits.total_num_examples
  ratings = {
    'user': np.empty(total, np.uint32),
    'movie': np.empty(total, np.uint32),
    'rating': np.empty(total, np.float32),
    'timestamp': np.empty(total, np.int64),
  }
  movies: dict[int, dict[str, Any]] = {}
  users: dict[int, dict[str, Any]] = {}
  people = {k: v for k, v in _PEOPLE.items() if v in builder.info.features}
  records = tqdm(_records(builder), 'read', total, unit=' rows', disable=None)
  for i, record in enumerate(records):
    user, movie = int(record['user_id']), int(record['movie_id'])
    ratings['user'][i], ratings['movie'][i] = user, movie
    ratings['rating'][i] = record['user_rating']
    ratings['timestamp'][i] = record['timestamp']
    if movie not in movies:
      title = record['movie_title'].decode()
      genres = [int(genre) for genre in record['movie_genres']]
      movies[movie] = {'movie': movie, 'title': title, 'genres': genres}
    if user not in users:
      about = {k: int(record[v]) for k, v in people.items()}
      users[user] = {'user': user, **about}
  genres = builder.info.features['movie_genres'].feature.names
  url = url_of(builder.builder_config.name)
  return Ratings(
    ratings=pl.DataFrame(ratings),
    movies=pl.DataFrame(
      list(movies.values()),
      {'movie': pl.UInt32, 'title': pl.String, 'genres': pl.List(pl.Int32)},
    ),
    users=pl.DataFrame(
      list(users.values()), dict.fromkeys(('user', *people), pl.UInt32)
    ),
    genres=tuple(genres),
    source={
      'tfds': builder.info.full_name,
      'url': url,
      'sha256': movielens.Movielens.url_infos[url].checksum,
    },
  )


def load(name: str, archive: str | None, scratch: Path) -> Ratings:
  """Builds TFDS's data set in a folder, and reads it.

  Args:
    name: of a config of movielens, such as 'latest-small-ratings'.
    archive: the zip; None: TFDS downloads it.
    scratch: an empty folder, for all that is made on the way.

  Raises:
    InputError: no such config, no archive, or another one.
  """
  url = url_of(name)
  if archive is None:
    archive = download(url, scratch / 'downloads')
  check(archive, url)
  options = unpack(archive, url, scratch)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS's chatter
    builder = _Builder(
      config=name, data_dir=str(scratch / 'data'), file_format='array_record'
    )
    builder.download_and_prepare(
      download_dir=str(scratch / 'downloads'), download_config=options
    )
  return _collect(builder)
