"""The ratings in a MovieLens archive, as TFDS's own parsers read them.

TFDS knows the files of every version, and the numbers of their labels. Its
parsers open files through TensorFlow; a copy of them reads the zip instead.
"""

import array
import importlib.util
import io
import tempfile
import types
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from tensorflow_datasets.structured import movielens

from dlrm_jax.errors import InputError

_PEOPLE = {
  'gender': 'user_gender',
  'age': 'bucketized_user_age',
  'occupation': 'user_occupation_label',
}
"""Features of users, and TFDS's names for them."""

_FILES = ('/ratings.csv', '/ratings.dat', '/u.data')
"""Members of archives that hold the ratings."""


class Ratings(NamedTuple):
  """The content of a MovieLens archive.

  Attributes:
    ratings: frame of user u32, movie u32, rating f32, timestamp i64 (seconds),
      in the order of the archive.
    movies: frame of movie u32, title, genres (list of label numbers).
    users: frame of user u32, and of gender, age, occupation, each u32, where
      the archive has them.
  """

  ratings: pl.DataFrame
  movies: pl.DataFrame
  users: pl.DataFrame


def info_of(name: str) -> Any:
  """TFDS's description of a data set: its features, labels and full name."""
  with tempfile.TemporaryDirectory() as empty:
    return movielens.Movielens(config=name, data_dir=empty).info


def people_of(info: Any) -> tuple[str, ...]:
  """Features of users that a data set has."""
  return tuple(k for k, v in _PEOPLE.items() if v in info.features)


def _parser(name: str, packed: zipfile.ZipFile) -> Callable[[str], Any]:
  """TFDS's parser of a data set, which opens members of a zip as files."""
  spec = importlib.util.find_spec(movielens.movielens_parsing.__name__)
  if spec is None or spec.loader is None:
    raise ImportError('the parsers of TFDS have no source to load')
  module = importlib.util.module_from_spec(spec)  # TFDS's own stays as it is
  spec.loader.exec_module(module)

  def path_of(member: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(
      open=lambda: io.TextIOWrapper(packed.open(member), 'utf-8')
    )

  gfile = types.SimpleNamespace(GFile=lambda path, mode: packed.open(path))
  module.__dict__['tf'] = types.SimpleNamespace(
    io=types.SimpleNamespace(gfile=gfile)
  )
  module.__dict__['epath'] = types.SimpleNamespace(Path=path_of)
  config = movielens.Movielens.builder_configs[name]
  return getattr(module, config.parsing_fn.__name__)


def read_archive(name: str, archive: str) -> Ratings:
  """Reads an archive that has been verified.

  Args:
    name: TFDS's name of the data set, such as 'latest-small-ratings'.
    archive: path of the zip.
  """
  info = info_of(name)
  people = {key: _PEOPLE[key] for key in people_of(info)}
  encode = {key: info.features[people[key]].encode_example for key in people}
  number_of = info.features['movie_genres'].feature.encode_example
  user, movie = array.array('I'), array.array('I')
  rating, timestamp = array.array('f'), array.array('q')
  movies: dict[int, dict[str, Any]] = {}
  users: dict[int, dict[str, Any]] = {}
  with zipfile.ZipFile(archive) as packed:
    folder = f'ml-{name.removesuffix("-ratings")}'
    for _, example in _parser(name, packed)(folder):
      user.append(user_id := int(example['user_id']))
      movie.append(movie_id := int(example['movie_id']))
      rating.append(float(example['user_rating']))
      timestamp.append(int(example['timestamp']))
      if movie_id not in movies:
        movies[movie_id] = {
          'movie': movie_id,
          'title': example['movie_title'],
          'genres': [number_of(genre) for genre in example['movie_genres']],
        }
      if user_id not in users:
        about = {k: int(encode[k](example[v])) for k, v in people.items()}
        users[user_id] = {'user': user_id, **about}
  return Ratings(
    ratings=pl.DataFrame(
      {
        'user': np.frombuffer(user, np.uint32),
        'movie': np.frombuffer(movie, np.uint32),
        'rating': np.frombuffer(rating, np.float32),
        'timestamp': np.frombuffer(timestamp, np.int64),
      }
    ),
    movies=pl.DataFrame(
      list(movies.values()),
      {'movie': pl.UInt32, 'title': pl.String, 'genres': pl.List(pl.Int64)},
    ),
    users=pl.DataFrame(
      list(users.values()), dict.fromkeys(('user', *people), pl.UInt32)
    ),
  )


def estimated_rows(archive: str) -> int:
  """About how many ratings an archive has, from the start of their file.

  Raises:
    InputError: the file is no zip archive.
  """
  try:
    with zipfile.ZipFile(archive) as packed:
      for member in packed.infolist():
        if member.filename.endswith(_FILES):
          with packed.open(member) as file:
            start = file.read(1 << 16)
          return member.file_size * start.count(b'\n') // max(1, len(start))
  except (zipfile.BadZipFile, OSError) as error:
    raise InputError(
      f'{archive}: {error}; expected an archive of MovieLens (.zip)'
    ) from None
  return 0
