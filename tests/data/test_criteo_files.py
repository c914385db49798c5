"""Raw files: whole lines, plain or gzip, checked and hashed on the way."""

import gzip
import hashlib

import pytest

from dlrm_jax.data import criteo_files
from dlrm_jax.data.criteo_files import check_readable
from dlrm_jax.data.criteo_read import RawFile
from dlrm_jax.errors import InputError

TEXT = b''.join(b'line %d\n' % i for i in range(100_000))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(criteo_files, 'CHUNK_BYTES', 1000)


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_chunks_are_whole_lines_and_the_checksum_is_of_the_file(tmp_path, pack):
  packed = pack(TEXT)  # once: gzip writes the time
  (tmp_path / 'a').write_bytes(packed)
  read = []
  file = RawFile(str(tmp_path / 'a'), read.append)
  chunks = list(file)
  assert b''.join(chunks) == TEXT
  assert all(chunk.endswith(b'\n') for chunk in chunks)
  assert file.sha256 == hashlib.sha256(packed).hexdigest()
  assert file.size == sum(read) == len(packed)
  assert file.damage is None


def test_a_last_line_without_an_end_is_a_line(tmp_path):
  (tmp_path / 'a').write_bytes(b'x\ny')
  assert b''.join(RawFile(str(tmp_path / 'a'))) == b'x\ny\n'


def test_joined_gzip_files_are_one(tmp_path):
  (tmp_path / 'a').write_bytes(gzip.compress(b'x\n') + gzip.compress(b'y\n'))
  assert b''.join(RawFile(str(tmp_path / 'a'))) == b'x\ny\n'


@pytest.mark.parametrize('keep', [0.3, 0.9, -1])
def test_a_truncated_gzip_gives_the_whole_lines_before(tmp_path, keep):
  data = gzip.compress(TEXT)
  cut = int(len(data) * keep) if keep > 0 else len(data) + keep
  (tmp_path / 'a').write_bytes(data[:cut])
  file = RawFile(str(tmp_path / 'a'))
  found = b''.join(file)
  assert 'truncated' in file.damage
  assert TEXT.startswith(found)
  assert found.endswith(b'\n')
  assert len(found) > len(TEXT) * (abs(keep) - 0.1)


def test_a_wrong_checksum_in_a_gzip_is_damage(tmp_path):
  data = bytearray(gzip.compress(TEXT))
  data[-8] ^= 1
  (tmp_path / 'a').write_bytes(data)
  file = RawFile(str(tmp_path / 'a'))
  assert TEXT.startswith(b''.join(file))
  assert 'damaged (CRC check failed' in file.damage


def test_a_file_without_lines_is_no_log(tmp_path):
  (tmp_path / 'a').write_bytes(bytes(5000))
  with pytest.raises(InputError, match='a line longer than'):
    list(RawFile(str(tmp_path / 'a')))


def test_missing_empty_and_folder_are_refused(tmp_path):
  (tmp_path / 'empty').touch()
  for name, why in (
    ('absent', 'no such file'),
    ('empty', 'empty'),
    ('.', 'not a file'),
  ):
    with pytest.raises(InputError, match=why):
      check_readable(str(tmp_path / name))
