"""MovieLens ratings -> a prepared set: a click is a rating of 4 or more.

Ratings are in time order, so that what is tested comes after what is trained
on; most users of the test rows are then new. No feature looks at a label, and
none at the future: the dense features count what was rated earlier.

    sparse: user, movie, genres (a bag), release (year; by the title), and
      gender, age, occupation where the data set has them
    dense: user_ratings, movie_ratings: log(1 + earlier ratings of the user or
      the movie); movie_age: log(1 + years from release to rating)

The zip codes of 100k and 1m are left out: most are of one user only.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dlrm_jax.batch import PAD
from dlrm_jax.data.prepared import Prepared, open_prepared
from dlrm_jax.data.schema import BLOCK_ROWS, Block, Column, Schema
from dlrm_jax.prepare.movielens.builder import Ratings, load, url_of
from dlrm_jax.prepare.movielens.writing import Split, creating, write
from dlrm_jax.prepare.splits import bounds
from dlrm_jax.vocabulary.hashing import (
  Vocabulary,
  load_vocabularies,
  save_vocabularies,
)

SHARES = {
  'train': Fraction(8, 10),
  'validation': Fraction(1, 10),
  'test': Fraction(1, 10),
}
CLICK = 4.0
"""The least rating that is a click."""

DENSE = ('user_ratings', 'movie_ratings', 'movie_age')
_YEAR = 365.2425 * 24 * 3600


class Log(NamedTuple):
  """A click log in time order, its ids encoded.

  Attributes:
    dense: f32[n, 3].
    ids: one i32[n] a feature of one id.
    movies: i32[n], a movie's row in `genres`.
    genres: i32[movies, most genres of a movie], PAD behind the last.
    labels: f32[n].
  """

  dense: np.ndarray
  ids: dict[str, np.ndarray]
  movies: np.ndarray
  genres: np.ndarray
  labels: np.ndarray

  def blocks(self, rows: range) -> Iterator[Block]:
    """The examples of consecutive rows."""
    for start in range(rows.start, rows.stop, BLOCK_ROWS):
      part = slice(start, min(start + BLOCK_ROWS, rows.stop))
      columns = [ids[part, None] for ids in self.ids.values()]
      bags = self.genres[self.movies[part]]
      ids = np.concatenate([*columns, bags], axis=1)
      yield Block(self.dense[part], ids, self.labels[part, None])


def in_time_order(ratings: Ratings) -> pl.DataFrame:
  """One row a rating, with all that is known of user and movie.

  Ratings of one second are in the order of user, then movie. `release` is
  null where the title ends in no year. `user_ratings` and `movie_ratings`
  count ratings of earlier seconds.
  """
  year = pl.col('title').str.extract(r'\((\d{4})\)\s*$').cast(pl.UInt32)
  movies = ratings.movies.sort('movie').with_row_index('place')
  movies = movies.select('movie', 'place', release=year)
  earlier = pl.col('timestamp').rank('min') - 1
  return (
    ratings.ratings.join(movies, on='movie', how='left')
    .join(ratings.users, on='user', how='left')
    .sort('timestamp', 'user', 'movie')
    .with_columns(
      user_ratings=earlier.over('user'), movie_ratings=earlier.over('movie')
    )
  )


def _dense(frame: pl.DataFrame) -> np.ndarray:
  year = 1970 + pl.col('timestamp') / _YEAR
  age = (year - pl.col('release')).clip(lower_bound=0).fill_null(0)
  columns = frame.select('user_ratings', 'movie_ratings', movie_age=age)
  return np.log1p(columns.select(DENSE).to_numpy()).astype(np.float32)


def _genres(movies: pl.DataFrame) -> np.ndarray:
  """i32[movies, most]: genres of the movies in order of their number."""
  bags = movies.sort('movie')['genres'].to_list()
  most = max(1, *map(len, bags))
  return np.array([bag + [PAD] * (most - len(bag)) for bag in bags], np.int32)


def _vocabularies(
  train: pl.DataFrame, names: list[str]
) -> dict[str, Vocabulary]:
  counts = {
    name: train.group_by(key=pl.col(name)).agg(count=pl.len()) for name in names
  }
  return {name: Vocabulary.of(count, 1) for name, count in counts.items()}


def _encode(
  frame: pl.DataFrame, genres: np.ndarray, words: Mapping[str, Vocabulary]
) -> Log:
  ids = {name: kept.lookup(frame[name]) for name, kept in words.items()}
  return Log(
    dense=_dense(frame),
    ids=ids,
    movies=frame['place'].to_numpy(),
    genres=genres,
    labels=(frame['rating'] >= CLICK).to_numpy().astype(np.float32),
  )


def _details(
  ratings: Ratings, log: Log, splits: Mapping[str, range]
) -> dict[str, Any]:
  unseen = {
    split: {
      name: round(float(np.mean(log.ids[name][rows.start : rows.stop] == 0)), 4)
      for name in ('user', 'movie')
    }
    for split, rows in splits.items()
  }
  return {
    'kind': 'movielens',
    'source': ratings.source,
    'click': f'rating >= {CLICK:g}',
    'splits': {name: str(share) for name, share in SHARES.items()},
    'genres': list(ratings.genres),
    'unseen': unseen,
  }


def prepare(
  name: str, output: str, archive: str | None = None, overwrite: bool = False
) -> Prepared:
  """Makes a prepared set of MovieLens ratings: 80 % train, 10 %, 10 %.

  Args:
    name: of TFDS's config, such as 'latest-small-ratings'.
    output: folder to make.
    archive: the zip of GroupLens; None: TFDS downloads it.
    overwrite: replace a prepared set that is there.

  Raises:
    InputError: no such config, no archive, another one, or a wrong output.
  """
  url_of(name)  # a wrong name is told before anything is made
  with creating(output, overwrite) as folder:
    scratch = folder / 'scratch'
    scratch.mkdir()
    ratings = load(name, archive, scratch)
    shutil.rmtree(scratch)
    frame = in_time_order(ratings)
    splits = bounds(frame.height, SHARES)
    people = [name for name in ratings.users.columns if name != 'user']
    words = _vocabularies(
      frame[: len(splits['train'])], ['user', 'movie', 'release', *people]
    )
    log = _encode(frame, _genres(ratings.movies), words)
    columns = [Column(name, kept.rows) for name, kept in words.items()]
    bag = Column('genres', len(ratings.genres), log.genres.shape[1])
    blocks = {
      name: Split(len(rows), lambda r=rows: log.blocks(r))
      for name, rows in splits.items()
    }
    details = _details(ratings, log, splits)
    write(folder, Schema(DENSE, (*columns, bag)), blocks, details)
    save_vocabularies(folder, words)
  return open_prepared(output)


def read_raw(prepared: Prepared, archive: str) -> Iterator[Block]:
  """An archive in the vocabularies of a prepared set, in time order.

  Args:
    prepared: a MovieLens set.
    archive: the zip of the same kind.

  Raises:
    InputError: it is another archive, or the set's vocabularies are damaged.
  """
  _, name, _ = prepared.details['source']['tfds'].split('/')
  words = load_vocabularies(
    Path(prepared.directory),
    [c.name for c in prepared.schema.sparse if c.name != 'genres'],
  )
  with tempfile.TemporaryDirectory() as scratch:
    ratings = load(name, archive, Path(scratch))
  frame = in_time_order(ratings)
  log = _encode(frame, _genres(ratings.movies), words)
  yield from log.blocks(range(frame.height))
