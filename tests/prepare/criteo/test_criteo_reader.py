"""Pieces of a Criteo log hold together what the log holds."""

import gzip
import itertools
import pickle

import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import BadRows
from dlrm_jax.prepare.criteo import criteo_reader
from dlrm_jax.prepare.criteo.criteo_reader import CriteoReader
from dlrm_jax.prepare.criteo.criteo_rows import COLUMNS, DENSE, SCHEMA, SPARSE
from dlrm_jax.prepare.readers import lines, text_files
from dlrm_jax.prepare.readers.reader import NUMBER, Piece
from dlrm_jax.vocabulary.columns import Dense, Sparse

READER = CriteoReader()
NUMBERED = SCHEMA | {NUMBER: pl.UInt32}


def line(number):
  """A short good line, another one for each number."""
  fields = [str(number % 2), *[str(number - 5)] * 2, *[''] * 11, 'ff']
  return '\t'.join([*fields, *[''] * 24, f'{number:x}']).encode()


LINES = [line(i) for i in range(6)]
BAD = b'1\t2'


def read(piece, on_bad_row='stop'):
  """Rows, bad rows, and the bytes that were digested."""
  bad = BadRows(on_bad_row)
  digested = []
  frames = list(READER.read(piece, bad, digested.append))
  frame = pl.concat([pl.DataFrame(schema=NUMBERED), *frames])
  return frame, bad, b''.join(digested)


def save(path, text):
  path.write_bytes(text)
  return str(path)


@pytest.mark.parametrize('end', [b'\n', b'\r\n'])
@pytest.mark.parametrize('last', ['', 'end'])
def test_every_cut_of_a_file_gives_its_rows_once(tmp_path, end, last):
  text = end.join([*LINES[:2], b'', BAD, LINES[2]]) + (end if last else b'')
  path = save(tmp_path / 'a', text)
  whole, bad, _ = read(Piece(path, 0, len(text)), 'skip')
  assert whole['C26'].to_list() == [0, 1, 2]
  assert bad.counts == {'wrong number of columns': 2}
  for cut in range(len(text) + 1):
    pieces = [Piece(path, 0, cut), Piece(path, cut, len(text))]
    frames, bads, bytes_read = zip(
      *(read(p, 'skip') for p in pieces), strict=True
    )
    assert pl.concat(frames).drop(NUMBER).equals(whole.drop(NUMBER))
    merged = BadRows('skip')
    for found in bads:
      merged.merge(found.to_json())
    assert merged.to_json() == bad.to_json()
    assert b''.join(bytes_read) == text


def test_any_three_pieces_and_small_chunks_are_the_file(tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, 'CHUNK_BYTES', 90)
  text = b'\n'.join(LINES)
  path = save(tmp_path / 'a', text)
  for first in range(0, len(text), 17):
    for second in range(first, len(text), 31):
      cuts = [0, first, second, len(text)]
      found = [read(Piece(path, a, b))[0] for a, b in itertools.pairwise(cuts)]
      assert pl.concat(found)['C26'].to_list() == [0, 1, 2, 3, 4, 5]


def test_frames_are_of_one_schema_and_few_rows(tmp_path, monkeypatch):
  monkeypatch.setattr(criteo_reader, 'FRAME_ROWS', 4)
  path = save(tmp_path / 'a', b'\n'.join(LINES))
  (piece,) = READER.pieces(path)
  frames = list(READER.read(piece, BadRows(), len))
  assert [frame.height for frame in frames] == [4, 2]
  assert all(frame.schema == NUMBERED for frame in frames)
  assert frames[0].columns == [*COLUMNS, NUMBER]


def test_a_plain_file_is_cut_and_a_gzip_is_one_piece(tmp_path, monkeypatch):
  monkeypatch.setattr(lines, 'PIECE_BYTES', 100)
  text = b'\n'.join(LINES)
  path = save(tmp_path / 'a', text)
  pieces = READER.pieces(path)
  assert pieces[:2] == [Piece(path, 0, 100), Piece(path, 100, 200)]
  assert pieces[-1].stop == len(text)
  frames = [read(piece)[0] for piece in pieces]
  packed = gzip.compress(text) * 3
  (piece,) = READER.pieces(save(tmp_path / 'b', packed))
  frame, _, digested = read(piece, 'skip')
  assert digested == packed
  # Where members meet without a line end, two lines are one bad line.
  kept = [0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 5]
  assert pl.concat(frames)['C26'].to_list() == [0, 1, 2, 3, 4, 5]
  assert frame['C26'].to_list() == kept


def test_line_numbers_are_of_the_whole_file(tmp_path):
  text = b'\n'.join([*LINES, BAD, *LINES, b''])
  path = save(tmp_path / 'a', text)
  middle = Piece(path, text.index(LINES[5]) + 1, len(text))
  with pytest.raises(InputError, match=r'a, line 7: wrong number of columns'):
    read(middle)
  with pytest.raises(InputError, match=r'a, line 7: wrong number of columns'):
    read(Piece(path, 0, len(text)))


def test_a_truncated_gzip_stops_or_keeps_the_rows_before(tmp_path):
  packed = gzip.compress(b'\n'.join([*LINES, *LINES, b'']))
  path = save(tmp_path / 'a', packed[:-4])
  (piece,) = READER.pieces(path)
  with pytest.raises(InputError, match=r'a, line 13: damaged gzip: .*truncat'):
    read(piece)
  frame, bad, digested = read(piece, 'skip')
  assert frame.height == 12
  assert bad.counts == {'damaged gzip': 1}
  (line,) = bad.report()
  assert 'LOST: the rest of a, all that follows line 12 (the gzip' in line
  assert digested == packed[:-4]


def test_a_wrong_checksum_says_that_any_line_before_may_be_wrong(tmp_path):
  packed = bytearray(gzip.compress(b'\n'.join([*LINES, b''])))
  packed[-8] ^= 1  # of the checksum
  (piece,) = READER.pieces(save(tmp_path / 'a', bytes(packed)))
  with pytest.raises(InputError, match=r'all lines before, .* may be wrong'):
    read(piece)
  frame, bad, _ = read(piece, 'skip')
  assert frame.height == 6
  (line,) = bad.report()
  assert 'lines before it, 1 to 6, may be WRONG' in line


def test_a_byte_changed_anywhere_is_never_a_crash(tmp_path):
  text = b'\n'.join([LINES[5], LINES[3], b''])
  path = tmp_path / 'a'
  for at in range(len(text)):
    for byte in (0, 10, 13, 45, 48, 128):
      changed = text[:at] + bytes([byte]) + text[at + 1 :]
      frame, bad, _ = read(Piece(save(path, changed), 0, len(text)), 'skip')
      assert frame.height + bad.counts.total() == changed.count(b'\n') + (
        not changed.endswith(b'\n')
      )


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_rows_are_estimated(tmp_path, pack):
  text = (b'\n'.join(LINES) + b'\n') * 1000
  path = save(tmp_path / 'a', pack(text))
  assert READER.about(path) == pytest.approx(6000, rel=0.1)


def test_columns_follow_the_options():
  columns = CriteoReader('log3', hash_rows=100).columns
  assert columns.dense == tuple(Dense(name, 'log3') for name in DENSE)
  assert columns.sparse[25] == Sparse('C26', 'hashed', 100)
  assert READER.columns.sparse[0] == Sparse(SPARSE[0])
  assert READER.columns.dense[0] == Dense('I1', 'log1p')


def test_a_reader_can_be_sent_and_described():
  reader = CriteoReader('none')
  assert pickle.loads(pickle.dumps(reader)) == reader
  assert reader.to_json() != READER.to_json()
  assert reader.to_json()['format'] == 'criteo'
