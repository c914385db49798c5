"""Raw files: whole lines, plain or gzip, shown to a digest on the way."""

import gzip

import pytest

from dlrm_jax.data import criteo_files
from dlrm_jax.data.criteo_files import (
  DamagedError,
  check_readable,
  chunks,
  head_lines,
  line_start,
  lines_before,
)
from dlrm_jax.errors import InputError

TEXT = b''.join(b'line %d\n' % i for i in range(20_000))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(criteo_files, 'CHUNK_BYTES', 1000)


def save(path, data):
  path.write_bytes(data)
  return str(path), 0, len(data)


def until_damage(path, start, stop):
  """The text before the damage, and what that is."""
  found = []
  with pytest.raises(DamagedError) as damage:
    found.extend(chunks(path, start, stop, len))
  return b''.join(found), str(damage.value)


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_chunks_are_whole_lines_and_all_bytes_are_digested(tmp_path, pack):
  packed = pack(TEXT)  # once: gzip writes the time
  digested = []
  found = list(chunks(*save(tmp_path / 'a', packed), digested.append))
  assert b''.join(found) == TEXT
  assert all(chunk.endswith(b'\n') for chunk in found)
  assert b''.join(digested) == packed


def test_a_last_line_without_an_end_is_given_one(tmp_path):
  whole = save(tmp_path / 'a', b'x\ny')
  digested = []
  assert b''.join(chunks(*whole, digested.append)) == b'x\ny\n'
  assert b''.join(digested) == b'x\ny'


@pytest.mark.parametrize('between', [b'', b'y\n'])
def test_joined_gzip_files_are_one(tmp_path, between):
  packed = b''.join(map(gzip.compress, (b'x\nbro', between, b'ken\n')))
  found = b''.join(chunks(*save(tmp_path / 'a', packed), len))
  assert found == b'x\nbro' + between + b'ken\n'


@pytest.mark.parametrize('keep', [0.3, 0.9, -1])
def test_a_truncated_gzip_gives_the_whole_lines_before(tmp_path, keep):
  data = gzip.compress(TEXT)
  cut = int(len(data) * keep) if keep > 0 else len(data) + keep
  found, damage = until_damage(*save(tmp_path / 'a', data[:cut]))
  assert 'truncated' in damage
  assert TEXT.startswith(found)
  assert found.endswith(b'\n')
  assert len(found) > len(TEXT) * (abs(keep) - 0.1)


def test_a_gzip_cut_anywhere_gives_whole_lines_or_damage(tmp_path):
  text = b'one\ntwo\nthree\n' * 20
  data = gzip.compress(text[:100]) + gzip.compress(text[100:])
  member = len(gzip.compress(text[:100]))
  for cut in range(2, len(data)):
    file = save(tmp_path / 'a', data[:cut])
    if cut == member:
      assert b''.join(chunks(*file, len)) == text[:100] + b'\n'
      continue
    found, damage = until_damage(*file)
    assert text.startswith(found)
    assert found[-1:] in (b'', b'\n')
    assert 'truncated' in damage or 'damaged' in damage


def test_a_wrong_checksum_in_a_gzip_is_damage(tmp_path):
  data = bytearray(gzip.compress(TEXT))
  data[-8] ^= 1
  found, damage = until_damage(*save(tmp_path / 'a', data))
  assert found == TEXT
  assert 'damaged (CRC check failed' in damage


def test_what_follows_a_gzip_is_damage_but_zeros_are_not(tmp_path):
  data = gzip.compress(TEXT)
  found, damage = until_damage(*save(tmp_path / 'a', data + b'garbage'))
  assert (found, 'damaged' in damage) == (TEXT, True)
  assert b''.join(chunks(*save(tmp_path / 'b', data + bytes(9)), len)) == TEXT


def test_lines_belong_to_where_they_begin(tmp_path):
  text = b'a\n\nbcd\r\ne'
  path, _, size = save(tmp_path / 'a', text)
  begins = [0, 2, 3, 8, size]
  for at in range(size + 1):
    wanted = min(begin for begin in begins if begin >= at)
    assert line_start(path, at) == wanted
    assert lines_before(path, at) == text[:at].count(b'\n')


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_a_file_without_lines_is_no_log(tmp_path, pack):
  with pytest.raises(InputError, match='a line longer than 1,000 bytes'):
    list(chunks(*save(tmp_path / 'a', pack(bytes(5000))), len))


def test_a_piece_within_a_long_line_is_no_log(tmp_path, monkeypatch):
  monkeypatch.setattr(criteo_files, '_HEAD_BYTES', 100)
  path, _, size = save(tmp_path / 'a', bytes(5000))
  with pytest.raises(InputError, match='a line longer than 1,000 bytes'):
    list(chunks(path, 100, size, len))


def test_the_head_tells_bytes_and_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(criteo_files, '_HEAD_BYTES', 1000)
  assert head_lines(save(tmp_path / 'a', b'12345\n\n\n\n\n' * 200)[0]) == (
    1000,
    500,
  )
  size, lines = head_lines(save(tmp_path / 'b', gzip.compress(TEXT))[0])
  assert size == 1000
  assert 10 < lines < 20_000


def test_missing_empty_and_folder_are_refused(tmp_path):
  (tmp_path / 'empty').touch()
  for name, why in (
    ('absent', 'no such file'),
    ('empty', 'empty'),
    ('.', 'not a file'),
  ):
    with pytest.raises(InputError, match=why):
      check_readable(str(tmp_path / name))
