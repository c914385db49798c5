"""Raw values of requests become what prepare makes of them."""

import numpy as np
import polars as pl
import pytest

from dlrm_jax.scoring.load import load
from dlrm_jax.serving import memory
from dlrm_jax.serving.coding import Coding
from dlrm_jax.serving.interface import Interface
from dlrm_jax.serving.memory import Encoded
from dlrm_jax.serving.refusal import Why
from dlrm_jax.serving.tensors import BYTES, DTYPES, Tensor
from tests import scored
from tests.serving.gates import refusal


class Coder:
  """A model's coding, and its intake, which is the reference."""

  def __init__(self, folder):
    model = load(folder)
    self.intake = model.intake
    self.interface = Interface(
      model.card.schema, self.intake.schema, self.intake.weighted,
      model.card.means,
    )  # fmt: skip
    self.coding = Coding(self.intake, self.interface)

  def check(self, tensors, rows):
    """Tensors of some requests become what their rows do."""
    questions = [self.interface.question(x) for x in tensors]
    inputs, faults, _ = self.coding(
      [x.rows for x in questions], [x.count for x in questions]
    )
    assert not faults
    want = self.intake.inputs(pl.DataFrame(rows))
    for found, wanted in zip(inputs, want, strict=True):
      if wanted is None:
        assert found is None
      else:
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.fixture(scope='module')
def coder(export):
  return Coder(export)


def texts(rows, names):
  """Rows of the log as texts."""
  return {
    name: Tensor(BYTES, (len(rows),), [str(row[name]).encode() for row in rows])
    for name in names
  }


def typed(columns, schema):
  """Lists of values as tensors of numbers and texts; nothing is missing."""
  found = {}
  for source in schema.dense:
    values = np.array(columns[source.column], DTYPES['FP64'])[:, None]
    found[source.column] = Tensor('FP64', values.shape, values)
  for source in schema.sparse:
    values = columns[source.column]
    if source.feature.bag:
      width = max(map(len, values)) + 1
      bags = [[str(x).encode() for x in bag] for bag in values]
      flat = [x for bag in bags for x in (bag + [b''] * width)[:width]]
      found[source.column] = Tensor(BYTES, (len(values), width), flat)
      if source.weights:
        weights = np.zeros((len(values), width), np.float32)
        for row, some in enumerate(columns[source.weights]):
          weights[row, : len(some)] = some
        found[source.weights] = Tensor('FP32', weights.shape, weights)
    elif source.values == 'integer':
      array = np.array(values, np.int64)
      found[source.column] = Tensor('INT64', array.shape, array)
    else:
      data = [str(x).encode() for x in values]
      found[source.column] = Tensor(BYTES, (len(data), 1), data)
  return found


@pytest.mark.parametrize('folder', ['export', 'weighted', 'two_labels'])
def test_rows_become_what_prepare_makes_of_them(request, folder):
  made = request.getfixturevalue(folder)
  coder = Coder(getattr(made, 'folder', made))
  schema = coder.intake.schema
  rows = scored.rows_of(8, 60)  # with values that are missing, and new ones
  columns = scored.columns_of(rows, schema)
  parts = [rows[:1], rows[1:40], rows[40:]]
  for _ in range(2):  # first unseen, then remembered
    coder.check([texts(part, schema.names) for part in parts], columns)
  full = [r for r in rows if '' not in (r['price'], r['user'], r['word'])]
  full = [r for r in full if r['site'] != '' and r['city'] != '']
  assert len(full) > 10
  columns = scored.columns_of(full, schema)
  coder.check([typed(columns, schema)], columns)


def test_a_row_for_many(coder):
  """Tensors of one row beside others of many, in several requests."""
  schema = coder.intake.schema
  rows = scored.rows_of(9, 30)
  user = ['price', 'age', 'user', 'city']
  tensors, wanted = [], []
  for start in (0, 10, 20):
    part = rows[start : start + 10]
    one = texts(part[:1], schema.names)
    many = texts(part, schema.names)
    tensors.append(many | {name: one[name] for name in user})
    wanted += [row | {name: part[0][name] for name in user} for row in part]
  tensors.append(texts(rows[:4], schema.names))
  wanted += rows[:4]
  coder.check(tensors, scored.columns_of(wanted, schema))


def held(remembered):
  """Values and bytes of arrays that a column holds."""
  parts = remembered._new, remembered._old
  return (
    sum(len(part.slots) for part in parts),
    sum(array.nbytes for part in parts for array in part.arrays),
  )


def test_what_is_remembered_is_bounded(export, monkeypatch):
  coder = Coder(export)
  rows = scored.rows_of(10, 80)
  schema = coder.intake.schema
  columns = scored.columns_of(rows, schema)
  for name, most in (('_MOST_VALUES', 8), ('_MOST_BYTES', 400)):
    monkeypatch.setattr(memory, name, most)
    for _ in range(3):
      coder.check([texts(rows[:40], schema.names)], columns_of(columns, 0, 40))
      coder.check([texts(rows[40:], schema.names)], columns_of(columns, 40, 80))
    for feature in coder.coding._sparse:
      assert held(feature._memory)[0] <= 8 + 2 * 40
    monkeypatch.undo()


def remembering(width):
  """A memory of bags of many ids, and the values that it has encoded."""
  encoded = []

  def empty(count):
    return [np.zeros((count, width), np.int32)]

  def encode(keys):
    encoded.extend(keys)
    return Encoded([np.array([[key] * width for key in keys], np.int32)], {})

  return memory.Memory(empty, type, encode), encoded


def test_what_values_became_is_counted_too():
  remembered, encoded = remembering(width=1000)
  for start in range(0, 20_000, 100):
    keys = list(range(start, start + 100))
    np.testing.assert_array_equal(remembered(keys).arrays[0][:, -1], keys)
  assert held(remembered)[1] < 2 * memory._MOST_BYTES
  assert len(encoded) == 20_000


def test_values_that_are_asked_for_stay_while_others_are_forgotten():
  remembered, encoded = remembering(width=1)
  often = list(range(1000))
  for start in range(1000, 200_000, 1000):
    keys = [*often, *range(start, start + 1000)]
    np.testing.assert_array_equal(remembered(keys).arrays[0][:, 0], keys)
  assert len(encoded) == 200_000  # each of them once
  assert held(remembered)[0] < memory._MOST_VALUES + 4000
  remembered([1000])
  assert len(encoded) == 200_001


def columns_of(columns, start, stop):
  return {name: values[start:stop] for name, values in columns.items()}


GOOD = {
  'price': '3', 'age': '1', 'user': '5', 'site': 'ff', 'word': 'x',
  'city': 'city 1', 'tags': 'tag1|tag2',
}  # fmt: skip


@pytest.mark.parametrize(
  ('column', 'value', 'words'),
  [
    ('price', b'a lot', 'column price: not a number'),
    ('age', b'1e999', 'column age: not a number'),
    ('user', b'5.5', 'column user: not an integer'),
    ('site', b'123456789', 'column site: not hex'),
    ('word', b'\xff\xfe', 'column word: no text'),
    ('word', b'a\0b', 'column word: no text'),
    ('tags', b"['a', ['b']]", 'column tags:'),
  ],
)
def test_faults_name_row_and_column(coder, column, value, words):
  rows = [GOOD | {column: 'x'} for _ in range(3)]
  tensors = texts(rows, GOOD)
  good = texts([GOOD] * 3, GOOD)
  data = [*good[column].data[:2], value]
  tensors = good | {column: Tensor(BYTES, (3,), data)}
  for _ in range(2):
    _, faults, _ = coder.coding([good, tensors, good], [3, 3, 3])
    assert list(faults) == [1]
    assert faults[1].startswith('row 2, ')
    assert words in faults[1]


def test_numbers_that_are_none(coder):
  good = texts([GOOD], GOOD)
  for value in (np.inf, 1e39):
    array = np.array([value])
    bad = good | {'price': Tensor('FP64', (1,), array)}
    _, faults, _ = coder.coding([bad, good], [1, 1])
    assert list(faults) == [0]
    assert 'row 0, column price: not a number' in faults[0]
  missing = good | {'price': Tensor('FP64', (1,), np.array([np.nan]))}
  coder.check([missing], {n: [v] for n, v in parsed(price=None).items()})


def parsed(**changes):
  """`GOOD` as values of Python."""
  values = GOOD | {
    'price': 3.0, 'age': 1.0, 'user': 5, 'tags': ['tag1', 'tag2'],
  }  # fmt: skip
  return values | changes


def test_unknown_ids_are_counted(coder):
  rows = [GOOD | {'word': 'never seen'}, GOOD, GOOD | {'user': '777'}]
  _, _, unknown = coder.coding([texts(rows, GOOD)], [3])
  assert unknown['word'] == unknown['user'] == 1
  assert unknown['site'] == 0
  assert 'city' not in unknown  # it is hashed


def test_unknown_ids_of_requests_with_faults_are_not_counted(coder):
  wrong = GOOD | {'user': '5.5', 'word': 'never seen'}
  parts = [[GOOD | {'word': 'never seen'}], [GOOD, wrong], [GOOD]]
  _, faults, unknown = coder.coding(
    [texts(rows, GOOD) for rows in parts], [1, 2, 1]
  )
  assert list(faults) == [1]
  assert unknown['word'] == 1
  assert unknown['user'] == unknown['site'] == 0


def test_weights_that_a_mean_cannot_have(tmp_path):
  run = scored.of_log(tmp_path / 'run', scored.WEIGHTED, tables__pooling='mean')
  coder = Coder(run.folder)
  assert coder.interface.means
  row = GOOD | {'seen': '1|2', 'scores': '0.5|2'}
  good = texts([row] * 2, row)
  bad = texts([row, row | {'scores': '2|-1'}], row)
  _, faults, _ = coder.coding([good, bad, bad, good], [2, 2, 2, 2])
  assert list(faults) == [1, 2]
  assert 'row 1, feature seen: an id of weight -1' in faults[1]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'dense': None}, "lacks input 'dense'"),
    ({'ids': None}, "lacks input 'ids'"),
    ({'other': ((1, 1), 'FP32')}, "no such input as 'other'"),
    ({'price': ((4, 1), 'FP32')}, "no such input as 'price'"),
    ({'dense': ((4, 3), 'FP32')}, 'shape [4, 3]; expected [-1, 2]'),
    ({'dense': ((4, 2), 'INT64')}, 'dense is INT64; expected FP32'),
    ({'ids': ((4,), 'INT32')}, 'shape [4]; expected [-1, 7]'),
    ({'ids': ((5, 7), 'INT32')}, 'rows; expected one number, or 1'),
    ({'ids': ((0, 7), 'INT32')}, 'rows; expected one number, or 1'),
  ],
)
def test_inputs_that_do_not_fit(coder, changes, words):
  shapes = {'dense': ((4, 2), 'FP32'), 'ids': ((4, 7), 'INT32')} | changes
  tensors = {
    name: Tensor(given[1], given[0], np.zeros(given[0], DTYPES[given[1]]))
    for name, given in shapes.items()
    if given
  }
  error = refusal(coder.interface.question, tensors)
  assert error.why is Why.INVALID
  assert words in str(error)


def test_numbers_and_ids_that_are_none(coder):
  def question(dense, ids):
    return coder.interface.question(
      {
        'dense': Tensor('FP32', dense.shape, dense),
        'ids': Tensor('INT64', ids.shape, ids),
      }
    )

  dense, ids = np.zeros((2, 2), np.float32), np.full((2, 7), -1)
  assert question(dense, ids).rows.ids.dtype == np.int32
  rows = coder.interface.schema.sparse[1].rows
  for wrong in (rows, -2, 2**40):
    bad = ids.copy()
    bad[1, 1] = wrong
    text = str(refusal(question, dense, bad))
    assert text == (
      f'ids: row 1, feature site: id {wrong}; expected 0 ... {rows - 1}, or -1 '
      'for none'
    )
  dense[1, 0] = np.nan
  assert 'dense has a number that is' in str(refusal(question, dense, ids))


@pytest.mark.parametrize(
  ('column', 'given', 'words'),
  [
    (
      'word',
      Tensor(BYTES, (2, 2), [b''] * 4),
      'shape [2, 2]; expected [-1, 1]',
    ),
    ('tags', Tensor(BYTES, (2, 1, 1), [b''] * 2), 'shape [2, 1, 1]'),
    ('tags', Tensor('INT64', (2, 2), np.zeros((2, 2))), 'tags is INT64'),
    (
      'tags',
      Tensor(BYTES, (2, 10_001), [b''] * 20_002),
      'tags has bags of 10,001; expected at most 10,000',
    ),
    ('site', Tensor('INT64', (2,), np.zeros(2)), 'site is INT64; expected BY'),
    ('user', Tensor('FP32', (2,), np.zeros(2)), 'user is FP32; expected INT64'),
    ('age', Tensor(BYTES, (3,), [b''] * 3), 'rows; expected one number'),
  ],
)
def test_columns_that_do_not_fit(coder, column, given, words):
  tensors = texts([GOOD] * 2, GOOD) | {column: given}
  assert words in str(refusal(coder.interface.question, tensors))
  del tensors[column]
  missing = str(refusal(coder.interface.question, tensors))
  assert f"the request lacks input '{column}'; expected" in missing
  unknown = str(refusal(coder.interface.question, tensors | {'x': given}))
  assert f"lacks input '{column}', and 'x' is unknown; expected" in unknown


def test_columns_with_the_names_of_the_network(tmp_path):
  raw = {
    'format': 'csv', 'label': 'click', 'dense': ['dense'],
    'sparse': {'ids': 'integer'},
  }  # fmt: skip
  log = 'click,dense,ids\n' + ''.join(f'{n % 2},{n},{n}\n' for n in range(200))
  data = scored.prepared(tmp_path, raw, log)
  run = scored.made(tmp_path / 'run', scored.config_of(data))
  coder = Coder(run.folder)
  names = [spec.name for spec in coder.interface.inputs]
  assert names == ['network.dense', 'network.ids', 'dense', 'ids']
  rows = {'dense': [1.0, 2.0], 'ids': [3, 4]}
  coder.check([typed(rows, coder.intake.schema)], rows)
