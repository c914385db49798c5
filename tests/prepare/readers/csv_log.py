"""A CSV log with a column of each kind, and how it is read."""

import pickle

from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.readers.reader import NUMBER

NAMES = ('click', 'price', 'user', 'site', 'word', 'tags', 'scores', 'hour')
HEADER = ','.join(NAMES)
RAW = {
  'format': 'csv',
  'label': 'click',
  'dense': {'price': 'log3'},
  'sparse': {'user': 'integer', 'site': 'hex', 'word': None},
  'bags': {'tags': {'weights': 'scores', 'values': 'integer', 'hotness': 2}},
  'time': 'hour',
}
IGNORE = bytes  # a digest
GOOD = ('1', '2.5', '7', 'ff', 'é', '3|4|5', '1|.5|-2e1', '14102100')
ROW = (1, 2.5, 7, 255, 'é', [3, 4], [1.0, 0.5], 14102100)


def read(path, bad='stop', **changes):
  """All good rows of a file, as tuples, and the bad rows."""
  reader = pickle.loads(pickle.dumps(reader_of(RAW | changes)))
  rows, found = [], BadRows(bad)
  for piece in reader.pieces(str(path)):
    for frame in reader.read(piece, found, IGNORE):
      rows += frame.drop(NUMBER).rows()
  return rows, found
