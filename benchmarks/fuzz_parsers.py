"""Fuzzes the Criteo reader, guided by coverage, against plain Python.

Not a part of the tests: it needs atheris, and runs as long as it is let.

  pip install atheris
  python -m benchmarks.fuzz_parsers CORPUS -max_total_time=300 -max_len=500

Arguments are those of libFuzzer. An input that shows a difference is kept in
the working directory, and its traceback is printed.
"""

import codecs
import contextlib
import gzip
import string
import sys
import tempfile
from pathlib import Path

import atheris  # pyrefly: ignore[missing-import]

with atheris.instrument_imports(include=['dlrm_jax.data']):
  from dlrm_jax.errors import InputError
  from dlrm_jax.prepare.bad_rows import BadRows
  from dlrm_jax.prepare.criteo import text as criteo_parse
  from dlrm_jax.prepare.criteo.criteo_reader import CriteoReader
  from dlrm_jax.prepare.criteo.text import parse_lines, sift_lines
  from dlrm_jax.prepare.readers.archives import file_format
  from dlrm_jax.prepare.readers.reader import NUMBER, Piece

Row = tuple[int | None, ...]
GOOD = [b'1', *[b'5', b'-3', b''] * 4, b'2147483647', *[b'0a1b2C3D', b''] * 13]
BORDER = b'0123456789/:;-aAfFgG`@.+ \t\r\0'
SEEDS = [
  b'\t'.join(GOOD),
  b'\t'.join([b'0', *[b''] * 39]),
  b'\t'.join([b'0', *[b'-2147483648'] * 13, *[b'f'] * 26]),
  b'\t'.join([b'1', *[b'0' * 20 + b'7'] * 13, *[b'fffffffff'] * 26]),
]


def plain_row(line: bytes) -> Row | None:
  """The rules in the plainest Python; None where the line is bad."""
  line = line.removesuffix(b'\r')
  if any(byte >= 128 for byte in line):
    return None
  fields = line.decode().split('\t')
  if len(fields) != 40 or fields[0] not in ('0', '1'):
    return None
  row: list[int | None] = [int(fields[0])]
  for field in fields[1:14]:
    digits = field.removeprefix('-')
    if field and not (digits and set(digits) <= set(string.digits)):
      return None
    if field and not -(2**31) <= int(field) < 2**31:
      return None
    row.append(int(field) if field else None)
  for field in fields[14:]:
    if len(field) > 8 or not set(field) <= set(string.hexdigits):
      return None
    row.append(int(field, 16) if field else None)
  return tuple(row)


def read(path: Path, *cuts: int) -> tuple[list[Row], int]:
  """Rows of a file that is cut here, and how many bad rows were met."""
  bad = BadRows('skip')
  rows: list[Row] = []
  size = path.stat().st_size
  for start, stop in zip([0, *cuts], [*cuts, size], strict=True):
    for frame in CriteoReader().read(Piece(str(path), start, stop), bad, len):
      rows.extend(frame.drop(NUMBER).rows())
  return rows, bad.counts.total()


def text_of(data: bytes) -> bytes:
  """Some lines: as they are, or good ones with one field changed."""
  how, data = data[:1], data[1:]
  if not how or how[0] < 64:
    return data
  lines = []
  for edit in data.split(b'\n'):
    place, new = edit[:1], edit[1:]
    if how[0] >= 128:
      new = bytes(BORDER[byte % len(BORDER)] for byte in new)
    fields = [*GOOD]
    if place:
      fields[place[0] % 40] = new
    lines.append(b'\t'.join(fields))
  return b'\n'.join(lines)


def check(data: bytes) -> None:
  """Raises `AssertionError` where the reader and plain Python differ."""
  text = text_of(data)
  if not text:
    return
  whole = text if text.endswith(b'\n') else text + b'\n'
  found = [plain_row(line) for line in whole.split(b'\n')[:-1]]
  rows = [row for row in found if row is not None]
  _check_parse(whole, found)
  for number, line in enumerate(whole.split(b'\n')[:-1]):
    _check_parse(line + b'\n', found[number : number + 1])
  good, bad = sift_lines(whole)
  assert good.rows() == rows
  assert [n for n, _ in bad] == [n for n, x in enumerate(found) if x is None]
  # Files take longest.
  if sum(data) % 8 == 0:
    _check_files(text, rows, len(bad), cut=sum(data) // 8)


def _check_parse(lines: bytes, rows: list[Row | None]) -> None:
  frame = parse_lines(lines)
  if frame is None:
    # Good lines never need the slow path.
    assert None in rows
  else:
    assert frame.rows() == rows


def _check_files(text: bytes, rows: list[Row], bad: int, cut: int) -> None:
  with tempfile.TemporaryDirectory(dir=_memory()) as folder:
    file = Path(folder) / 'log'
    file.write_bytes(text)
    if file_format(str(file)) or text.startswith(codecs.BOM_UTF8):
      with contextlib.suppress(InputError):
        read(file)  # Damaged, and no crash is all there is to say.
    else:
      assert read(file) == (rows, bad)
      assert read(file, cut % (len(text) + 1)) == (rows, bad)
    middle = cut % (len(text) + 1)
    packed = b''.join(
      gzip.compress(part, 1) for part in (text[:middle], text[middle:])
    )
    file.write_bytes(packed)
    assert read(file) == (rows, bad)
    file.write_bytes(packed[: max(2, cut % len(packed))])
    some, _ = read(file)
    # A member's end may be within a line, which is then a shorter one.
    assert some[:-1] == rows[: max(0, len(some) - 1)]


def _memory() -> str | None:
  """Where files need no disk, if there is such a place."""
  return '/dev/shm' if Path('/dev/shm').is_dir() else None


def main() -> None:
  """Fuzzes, from seeds that are put in the first folder that is named."""
  folders = [Path(word) for word in sys.argv[1:] if not word.startswith('-')]
  for folder in folders[:1]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(SEEDS):
      (folder / f'seed{number}').write_bytes(b'\0' + line + b'\n' + line)
      (folder / f'edit{number}').write_bytes(b'\xff\1\x0d1\n\x0f22')
  # So that inputs are parsed in several parts.
  criteo_parse._TEXT_BYTES = 200
  atheris.Setup(sys.argv, check)
  atheris.Fuzz()


if __name__ == '__main__':
  main()
