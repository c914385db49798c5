"""Raw files: whole lines, plain or packed, shown to a digest on the way."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.readers import text_files
from dlrm_jax.prepare.readers.archives import DamagedError
from dlrm_jax.prepare.readers.text_files import (
  check_lines,
  chunks,
  line_start,
  lines_about,
  lines_before,
)

TEXT = b''.join(b'line %d\n' % i for i in range(20_000))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(text_files, 'CHUNK_BYTES', 1000)


def zipped(text, *more, folder=''):
  """A zip archive with a file, and others."""
  made = io.BytesIO()
  with zipfile.ZipFile(made, 'w', zipfile.ZIP_DEFLATED) as archive:
    if folder:
      archive.mkdir(folder)
      archive.writestr('__MACOSX/._a.txt', b'of the system')
    for number, content in enumerate((text, *more)):
      archive.writestr(f'{folder}/{number}.txt', content)
  return made.getvalue()


STREAMS = [gzip.compress, bz2.compress, lzma.compress]


def save(path, data):
  path.write_bytes(data)
  return str(path), 0, len(data)


def until_damage(path, start, stop):
  """The text before the damage, and what that is."""
  found = []
  with pytest.raises(DamagedError) as damage:
    found.extend(chunks(path, start, stop, len))
  return b''.join(found), str(damage.value)


@pytest.mark.parametrize('pack', [bytes, *STREAMS])
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


def test_the_one_file_of_a_zip_archive_is_read(tmp_path):
  digested = []
  file = save(tmp_path / 'a', zipped(TEXT, folder='within'))
  assert b''.join(chunks(*file, digested.append)) == TEXT
  assert b''.join(digested) == TEXT


@pytest.mark.parametrize('pack', [bytes, *STREAMS, zipped])
def test_a_byte_order_mark_is_left_out(tmp_path, pack):
  file = save(tmp_path / 'a', pack(b'\xef\xbb\xbfx\ny\n'))
  assert b''.join(chunks(*file, len)) == b'x\ny\n'


@pytest.mark.parametrize('pack', STREAMS)
@pytest.mark.parametrize('between', [b'', b'y\n'])
def test_joined_packed_files_are_one(tmp_path, between, pack):
  packed = b''.join(map(pack, (b'x\nbro', between, b'ken\n')))
  found = b''.join(chunks(*save(tmp_path / 'a', packed), len))
  assert found == b'x\nbro' + between + b'ken\n'


@pytest.mark.parametrize('pack', [bz2.compress, lzma.compress])
def test_damage_of_any_packed_stream_is_found(tmp_path, pack):
  data = pack(TEXT)
  middle = len(data) // 2
  for damaged in (
    *(data[:middle], data[:-1], data[:9], data + pack(TEXT)[:-1]),
    *(data + b'garbage', data + bytes(4) + b'garbage'),
    data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
  ):
    found, damage = until_damage(*save(tmp_path / 'a', damaged))
    assert (TEXT + TEXT).startswith(found)
    assert found[-1:] in (b'', b'\n')
    assert 'truncated' in damage or 'damaged' in damage
  assert b''.join(chunks(*save(tmp_path / 'b', data + bytes(8)), len)) == TEXT


def test_a_zip_archive_that_is_damaged_within_gives_the_lines_before(tmp_path):
  data = zipped(TEXT)
  middle = len(data) // 2
  damaged = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
  found, damage = until_damage(*save(tmp_path / 'a', damaged))
  assert TEXT.startswith(found)
  assert 'the zip stream is damaged' in damage


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (zipped(TEXT, b'y'), ['zip archive with 2 files', '0.txt', '1.txt']),
    (zipped(TEXT)[:-30], ['damaged zip archive', 'copy it again']),
    (b'\x28\xb5\x2f\xfd and more', ['zstd', 'unpack it']),
    (b'PAR1 and more', ['Parquet file', "format = 'parquet'"]),
    ('a,b\n'.encode('utf-16'), ['UTF-16', 'iconv']),
    ('a,b\n'.encode('utf-16-le'), ['UTF-16', 'iconv']),
    (b'\x93NUMPY\1\0', ['NumPy']),
  ],
)
def test_what_is_no_text_is_called_by_its_name(tmp_path, data, words):
  path, _, _ = save(tmp_path / 'a.csv', data)
  with pytest.raises(InputError) as error:
    check_lines(path, 'a CSV file')
  for word in ('a.csv', *words):
    assert word in str(error.value)


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
  monkeypatch.setattr(text_files, '_HEAD_BYTES', 100)
  path, _, size = save(tmp_path / 'a', bytes(5000))
  with pytest.raises(InputError, match='a line longer than 1,000 bytes'):
    list(chunks(path, 100, size, len))


@pytest.mark.parametrize('pack', [bytes, *STREAMS, zipped])
def test_the_head_tells_how_many_lines_there_are_about(
  tmp_path, monkeypatch, pack
):
  monkeypatch.setattr(text_files, '_HEAD_BYTES', 1000)
  text = b''.join(b'%d\n' % (i * 7919 % 10**5) for i in range(5000))
  path, _, _ = save(tmp_path / 'a', pack(text))
  few = pack is bz2.compress  # A block of bz2 is all or nothing.
  assert lines_about(path) == pytest.approx(1 if few else 5000, rel=0.3)
  monkeypatch.setattr(text_files, '_HEAD_BYTES', 1 << 20)
  assert lines_about(path) == 5000


def test_missing_empty_and_folder_are_refused(tmp_path):
  (tmp_path / 'empty').touch()
  for name, why in (
    ('absent', 'no such file'),
    ('empty', 'empty; expected a log'),
    ('.', 'a folder; expected a log'),
  ):
    with pytest.raises(InputError, match=why):
      check_lines(str(tmp_path / name), 'a log')
