"""A row of CSV is what a definition in plain Python says, or refused."""

import csv
import re
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.values import raw_bags
from dlrm_jax.vocabulary import keys
from tests.prepare.readers.csv_log import GOOD, NAMES, read

MISSING = ('', '-', '?', '\\n', 'nan', '-nan', 'nat', '<na>', 'na', 'n/a')
MISSING += ('#n/a', 'null', 'none')


def lower(text):
  """In lower case as Unicode has it, letter by letter."""
  return ''.join(x.lower() for x in text.strip(' \t'))


def number(text):
  """A number, None where it is missing, or ValueError."""
  text = text.strip(' \t')
  if lower(text) in MISSING:
    return None
  if lower(text) in ('true', 'false'):
    return float(lower(text) == 'true')
  if not re.fullmatch(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?', text, re.A):
    raise ValueError
  value = float(text)
  if not abs(value) <= struct.unpack('<f', b'\xff\xff\x7f\x7f')[0]:
    raise ValueError
  return value


def integer(text):
  digits = re.fullmatch(r'([+-]?\d+)(\.0*)?', text.strip(' \t'), re.A)
  if digits:
    value = int(digits[1])
    if not -(2**63) <= value < 2**64:
      raise ValueError
    return keys.as_int64(value)
  value = number(text)
  if value is None:
    return None
  if value % 1 or abs(value) >= 2**53:
    raise ValueError
  return int(value)


def above(text):
  value = number(text)
  if value is not None and value <= -3:
    raise ValueError
  return value


def hexadecimal(text):
  text = text.strip(' \t')
  if lower(text) in MISSING:
    return None
  if not re.fullmatch('[0-9a-fA-F]{1,8}', text):
    raise ValueError
  return int(text, 16)


def float32(text):
  value = number(text)
  return (
    None if value is None else struct.unpack('<f', struct.pack('<f', value))[0]
  )


def label_of(text):
  """0, 1 or -1, or ValueError."""
  word = lower(text)
  if word in ('true', 't', 'yes', 'y', 'false', 'f', 'no', 'n'):
    return int(word in ('true', 't', 'yes', 'y'))
  if number(text) not in (-1, 0, 1):
    raise ValueError
  return int(number(text))


def bag_of(text, element):
  """A bag with None where an element is missing, or ValueError."""
  found = raw_bags.items(text, '|')
  if found is None:
    raise ValueError
  return [None if x is None else element(x) for x in found]


def plain_fields(text):
  """Splits a line, quotes minded, a character at a time."""
  fields, place = [], 0
  while True:
    field = ''
    if text[place : place + 1] == '"':
      place += 1
      while True:
        if place >= len(text):
          raise ValueError
        if text[place : place + 2] == '""':
          field, place = field + '"', place + 2
        elif text[place] == '"':
          place += 1
          break
        else:
          field, place = field + text[place], place + 1
    else:
      while place < len(text) and text[place] not in ',"':
        field, place = field + text[place], place + 1
    fields.append(field)
    if place == len(text):
      return fields
    if text[place] != ',':
      raise ValueError
    place += 1


def columns_of(line):
  """The fields of a row, or ValueError."""
  text = line.removesuffix(b'\r').decode()
  if '\0' in text or '\r' in text:
    raise ValueError
  fields = plain_fields(text)
  if fields != (next(csv.reader([text], strict=True)) or ['']):
    raise AssertionError('the csv module disagrees')
  if len(fields) != len(NAMES):
    raise ValueError
  return fields


def plain(line):
  """The rules of RAW in the plainest Python: a row, or ValueError."""
  label, price, user, site, word, tags, scores, hour = columns_of(line)
  ids, weights = bag_of(tags, integer), bag_of(scores, float32)
  if [x is None for x in ids] != [x is None for x in weights]:
    raise ValueError
  if number(hour) is None:
    raise ValueError
  return (
    label_of(label),
    above(price),
    integer(user),
    hexadecimal(site),
    word or None,
    [x for x in ids if x is not None][:2],
    [x for x in weights if x is not None][:2],
    number(hour),
  )


def plain_file(texts):
  """Good rows, and the lines of bad ones."""
  good, bad = [], []
  for line, text in enumerate(texts, 2):
    try:
      good.append(plain(text))
    except ValueError:
      bad.append(line)
  return good, bad


ODD = r'''+5 5\s \s5 5.0 1e3 --5 5- - 007 -0 9223372036854775807
9223372036854775808 1e39 -1e39 3.4028235e38 3.4028235e39 NaN nan inf -inf null
0x1f g 000000001 ٣ ² 1_0 \ufeff0 true False yes 2 1 1,2 1|2 1||2 |1 1|2|3 "5"
"" "a""b" "a,b" " """" a"b "a"b -3 -2.999 1e-400 .5 5. 1e 1E5 1e+5 | ' \t #
\N \x00 -1 1.0 0.0 1e0 +1 0.0000 18446744073709551615 18446744073709551616
NA None
- 1e15 1e16 1.50 3.000 yes F <NA> 3|4| |3|4 3|\s4 [3,\s4] [3] [] (3,4)
[[3]] nan|3|4
[.5,1] .5|1| 3|nan|4 \s| 3|| TRUE 2.'''
odd = st.sampled_from(
  ['', *(x.replace('\\s', ' ').replace('\\x00', '\0') for x in ODD.split())]
) | st.text(max_size=6)
quoted = st.text(max_size=5).map(lambda x: '"' + x.replace('"', '""') + '"')


@st.composite
def lines(draw):
  fields = list(GOOD)
  for _ in range(draw(st.integers(0, 2))):
    place = draw(st.integers(0, len(fields) - 1))
    fields[place] = draw(odd | quoted)
  if draw(st.integers(0, 9)) == 0:
    fields = draw(st.sampled_from([fields[:-1], [*fields, '1'], []]))
  line = ','.join(fields).encode('utf-8', 'surrogatepass')
  if draw(st.integers(0, 9)) == 0:
    place = draw(st.integers(0, len(line)))
    line = line[:place] + draw(st.binary(max_size=3)) + line[place:]
  return line.replace(b'\n', b'') + draw(st.sampled_from([b'', b'', b'\r']))


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
  return tmp_path_factory.mktemp('csv') / 'log.csv'


@settings(max_examples=100)
@given(texts=st.lists(lines(), max_size=4))
@example(texts=[b'0,,,,,,,1'])
@example(texts=[b'-1,,,,,,,1', b'1.0,,,,,,,1e3', b' +1 ,,,,, ,,1'])
@example(texts=[b'1,,,,,"[3, 4]",.5 | 1|,1'])
@example(texts=[b'1,,,,,3||4,.5|NaN|1,1', b'1,,,,,3||4,.5|1|,1'])
@example(texts=[b'0,1,2,3,"a""b",,,1', b'0,1,2,3,"",,,1'])
def test_a_row_is_what_the_definition_says(texts, scratch):
  good, bad = plain_file(texts)
  scratch.write_bytes(b'\n'.join([','.join(NAMES).encode(), *texts, b'']))
  rows, found = read(scratch, 'skip')
  assert rows == good
  assert sum(found.counts.values()) == len(bad)
  named = [
    int(re.search(r'line (\d+)', x)[1]) for x in found.report() if ',' in x
  ]
  assert set(named) <= set(bad)
  if bad:
    with pytest.raises(InputError, match=rf'line {bad[0]}\b'):
      read(scratch)
