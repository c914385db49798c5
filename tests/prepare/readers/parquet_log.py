"""Reads Parquet files of a label `y` and a sparse feature `u`."""

import polars as pl

from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER

RAW = {'format': 'parquet', 'label': 'y', 'sparse': ['u']}


def read(path, bad='stop', **changes):
  """All good rows of a file, and the bad ones."""
  reader, found = reader_of(RAW | changes), BadRows(bad)
  frames = [
    frame
    for piece in reader.pieces(str(path))
    for frame in reader.read(piece, found, bytes)
  ]
  return pl.concat(frames).drop(NUMBER), found
