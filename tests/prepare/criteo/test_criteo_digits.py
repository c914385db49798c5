"""Fields as numbers, against Python's own."""

import itertools
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.prepare.criteo.digits import PADDING, hexadecimals, integers


def laid_out(fields, padding=b'\xff'):
  """A text, starts and lengths; also what is around fields may be digits."""
  text = b'7'.join(fields) + b'7'
  padded = text + padding * (PADDING + -len(text) % 8)
  lengths = np.array([len(field) for field in fields])
  starts = np.cumsum(lengths + 1) - lengths - 1
  return np.frombuffer(padded, np.uint8), starts, lengths


def integer(field):
  if not field:
    return 0
  if not re.fullmatch(rb'-?[0-9]+', field):
    return None
  value = int(field)
  return value if -(2**31) <= value < 2**31 else None


def hexadecimal(field):
  if not re.fullmatch(rb'[0-9a-fA-F]{0,8}', field):
    return None
  return int(field or b'0', 16)


def check(fields):
  for function, plain in ((integers, integer), (hexadecimals, hexadecimal)):
    values, bad = function(*laid_out(fields))
    wanted = [plain(field) for field in fields]
    found = [
      None if wrong else value
      for value, wrong in zip(values.tolist(), bad.tolist(), strict=True)
    ]
    assert found == wanted


def test_all_fields_of_two_bytes():
  check([bytes(pair) for pair in itertools.product(range(256), repeat=2)])


def test_every_byte_at_every_place_of_longer_fields():
  check(
    [
      field[:place] + bytes([byte]) + field[place + 1 :]
      for field in (b'12345678', b'90aFfA09', b'-7654321', b'-2147483648')
      for place in range(len(field))
      for byte in range(256)
    ]
  )


def test_every_byte_beside_one_that_is_bad():
  check(
    [
      bytes([255, byte, bad, byte, 48, 48])[first:]
      for bad in (47, 58, 64, 71, 96, 103, 127, 128, 255)
      for byte in range(256)
      for first in (0, 1)
    ]
  )


edges = st.integers(-(2**31) - 2, 2**31 + 2) | st.integers(-(10**17), 10**17)
zeros = st.integers(0, 30)
numbers = st.builds(lambda x, n: f'{x:0{n}}'.encode(), edges, zeros)
likely = st.text('0123456789-+aAfFgG \t\r', max_size=24).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers | likely | st.binary(max_size=24), min_size=1))
def test_fields_are_what_python_reads(fields):
  check(fields)


def test_the_shape_of_fields_is_kept():
  text, starts, lengths = laid_out([b'1', b'-2', b'', b'123456789'])
  shaped = integers(text, starts.reshape(2, 2), lengths.reshape(2, 2))
  assert shaped.values.tolist() == [[1, -2], [0, 123456789]]
  assert not shaped.bad.any()
