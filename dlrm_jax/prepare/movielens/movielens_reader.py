"""MovieLens archives as a click log in time order: a `Reader`.

A rating of 4 or more is a click. Rows are in the order of time, so that the
test rows come after the training rows; most users of the test rows are then
new. No feature depends on a label or on the future.

    sparse: user, movie, release (the year in the title), where the archive
      has them gender, age, occupation, and genres (a bag)
    dense: user_ratings, movie_ratings: log(1 + earlier ratings of the user or
      the movie); movie_age: log(1 + years from release to rating)

The zip codes of 100k and 1m are left out: most of them have one user only.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.reader import FRAME_ROWS, Piece, numbered
from dlrm_jax.vocabulary.columns import Columns, Dense, Sparse

FORMAT = 'movielens'

_CLICK = 4.0
"""The lowest rating that is a click."""

_DENSE = ('user_ratings', 'movie_ratings', 'movie_age')
_YEAR = 365.2425 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class MovieLensReader:
  """Reads archives of one MovieLens data set; a `Reader`.

  Attributes:
    name: TFDS's name of the data set, such as 'latest-small-ratings'.
    people: features of users that the data set has.
    genres: names of the genres, in the order of their numbers.
  """

  name: str
  people: tuple[str, ...]
  genres: tuple[str, ...]

  @property
  def columns(self) -> Columns:
    """3 dense features; 4 sparse ones, or 7 where users are described."""
    counted = ('user', 'movie', 'release', *self.people)
    bag = Sparse('genres', 'rows', len(self.genres), hotness=0, bag=True)
    return Columns(
      tuple(Dense(name, 'log1p') for name in _DENSE),
      (*map(Sparse, counted), bag),
    )

  def pieces(self, path: str) -> list[Piece]:
    """An archive is one piece: all ratings are needed to sort them.

    Raises:
      InputError: the file is not the archive that TFDS knows.
    """
    from dlrm_jax.prepare.movielens.archive import url_of, verify

    verify(path, url_of(self.name))
    return [Piece(path, 0, 1)]

  def about(self, path: str) -> int:
    """Estimated number of ratings."""
    from dlrm_jax.prepare.movielens.ratings import estimated_rows

    return estimated_rows(path)

  def place(self, piece: Piece) -> tuple[int, str]:
    """Number of the first rating, and 'row'."""
    del piece
    return 1, 'row'

  def read(
    self, piece: Piece, bad: BadRows, digest: Callable[[bytes], object]
  ) -> Iterator[pl.DataFrame]:
    """The ratings in frames; `digest` takes the bytes of the archive."""
    from dlrm_jax.prepare.movielens.ratings import read_archive

    del bad  # An archive with the right checksum has no bad rows.
    with open(piece.path, 'rb') as file:
      while chunk := file.read(1 << 24):
        digest(chunk)
    loaded = read_archive(self.name, piece.path)
    ratings = in_time_order(loaded.ratings)
    movies = loaded.movies.select(
      'movie',
      'genres',
      release=pl.col('title').str.extract(r'\((\d{4})\)\s*$').cast(pl.UInt32),
    )
    for start in range(0, ratings.height, FRAME_ROWS):
      rows = (
        ratings[start : start + FRAME_ROWS]
        .join(movies, on='movie', how='left', maintain_order='left')
        .join(loaded.users, on='user', how='left', maintain_order='left')
      )
      frame = self._frame(rows)
      yield numbered(frame, np.arange(start, start + frame.height))

  def _frame(self, rows: pl.DataFrame) -> pl.DataFrame:
    """Joined rows -> the columns that a `Reader` gives."""
    year = 1970 + pl.col('timestamp') / _YEAR
    age = (year - pl.col('release')).clip(lower_bound=0)
    label = (pl.col('rating') >= _CLICK).cast(pl.UInt8)
    return rows.with_columns(label=label, movie_age=age).select(
      'label', *_DENSE, *(column.name for column in self.columns.sparse)
    )


def in_time_order(ratings: pl.DataFrame) -> pl.DataFrame:
  """Ratings by time, those of one second by user, then movie.

  Returns:
    The ratings, and how many the user and the movie had in earlier seconds:
    `user_ratings` and `movie_ratings`.
  """
  earlier = pl.col('timestamp').rank('min') - 1
  return ratings.sort('timestamp', 'user', 'movie').with_columns(
    user_ratings=earlier.over('user'), movie_ratings=earlier.over('movie')
  )


def format_of(name: str) -> dict[str, Any]:
  """The format of a MovieLens data set, as JSON can hold it.

  Raises:
    InputError: TFDS has no such data set, or it has no ratings.
  """
  from dlrm_jax.prepare.movielens import archive, ratings

  url = archive.url_of(name)
  info = ratings.info_of(name)
  return {
    'format': FORMAT,
    'name': name,
    'click': f'rating >= {_CLICK:g}',
    'people': list(ratings.people_of(info)),
    'genres': list(info.features['movie_genres'].feature.names),
    'source': {
      'tfds': info.full_name,
      'url': url,
      'sha256': archive.Movielens.url_infos[url].checksum,
    },
  }


def downloaded(name: str) -> str:
  """The archive of a data set, which TFDS downloads once.

  Raises:
    InputError: the download failed.
  """
  from dlrm_jax.prepare.movielens import archive

  return archive.download(archive.url_of(name), archive.downloads())


def movielens_reader(description: Mapping[str, Any]) -> MovieLensReader:
  """The reader of a format, as `format_of` gives it."""
  return MovieLensReader(
    description['name'],
    tuple(description['people']),
    tuple(description['genres']),
  )
