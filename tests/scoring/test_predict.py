"""Raw rows of every form become the probabilities of a prepared set's rows."""

import threading
from unittest import mock

import jax
import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.errors import InputError
from dlrm_jax.scoring import intake, of_run, scorer
from tests import scored

SPLITS = ('train', 'validation', 'test')
RUNS = ('plain', 'weighted', 'two_labels')


def want_of(made):
  """Probabilities of all rows of a run's log, in order."""
  data = made.data
  found = [made.probabilities(scored.blocks_of(data, s)) for s in SPLITS]
  found = np.concatenate(found)
  return found[:, 0] if found.shape[1] == 1 else found


@pytest.fixture(params=RUNS, scope='module')
def case(request):
  """A run, its model, the rows of its log, and what it must predict."""
  made = request.getfixturevalue(request.param)
  return made, dlrm_jax.load(made.folder), want_of(made)


@pytest.fixture(scope='module')
def model(plain):
  return dlrm_jax.load(plain.folder)


@pytest.fixture(scope='module')
def columns(model):
  return scored.columns_of(scored.rows_of(0), model.intake.schema)


def check(got, want):
  assert got.dtype == np.float32
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def arrays_of(columns):
  """Columns as arrays; bags are arrays of objects."""
  found = {}
  for name, values in columns.items():
    if isinstance(values[0], list):
      found[name] = np.empty(len(values), object)
      found[name][:] = values
    else:
      found[name] = np.array(values)
  return found


def test_the_rows_differ(case):
  assert np.std(case[2], 0).min() > 0.01


@pytest.mark.parametrize('kind', ['lists', 'arrays', 'polars', 'lazy'])
def test_rows_in_memory(case, kind):
  _made, model, want = case
  schema = model.intake.schema
  columns = scored.columns_of(scored.rows_of(0), schema)
  frame = scored.frame_of(scored.rows_of(0), schema)
  rows = {
    'lists': columns,
    'arrays': arrays_of(columns),
    'polars': frame,
    'lazy': frame.lazy(),
  }[kind]
  check(model.predict(rows), want)


def test_a_frame_of_pandas(case):
  pandas = pytest.importorskip('pandas')
  _, model, want = case
  columns = scored.columns_of(scored.rows_of(0), model.intake.schema)
  check(model.predict(pandas.DataFrame(columns)), want)
  check(model.predict(pandas.DataFrame(columns).convert_dtypes()), want)
  series = {name: pandas.Series(values) for name, values in columns.items()}
  check(model.predict(series), want)


@pytest.mark.parametrize('without', [(), ('click', 'buy')])
def test_a_csv_file(case, tmp_path, without):
  _, model, want = case
  path = tmp_path / 'rows.csv'
  path.write_text(scored.csv_of(scored.rows_of(0), without))
  check(model.predict(path), want)
  check(model.predict(str(path)), want)


def test_a_parquet_file(case, tmp_path):
  _, model, want = case
  frame = scored.frame_of(scored.rows_of(0), model.intake.schema)
  frame.write_parquet(tmp_path / 'rows.parquet')
  check(model.predict(tmp_path / 'rows.parquet'), want)


def test_splits_of_a_prepared_set(case):
  made, model, want = case
  data = made.data
  check(model.predict(data), want[300:])
  check(model.predict(data, split='train'), want[:200])


@pytest.mark.parametrize('rows', [0, 1, 5])
def test_any_number_of_rows(case, rows):
  _, model, want = case
  columns = scored.columns_of(scored.rows_of(0), model.intake.schema)
  some = {name: values[:rows] for name, values in columns.items()}
  check(model.predict(some), want[:rows])
  frame = scored.frame_of(scored.rows_of(0), model.intake.schema)[:rows]
  check(model.predict(frame), want[:rows])


@pytest.mark.parametrize('kind', ['csv', 'parquet', 'memory'])
def test_more_rows_than_one_piece(
  plain, columns, model, tmp_path, kind, monkeypatch
):
  """Pieces of files and pieces that are scored are of other sizes."""
  monkeypatch.setattr(scorer, 'ROWS_AT_ONCE', {'cpu': 64})
  small = dlrm_jax.load(plain.folder)
  assert small.scorer.most == 64
  for room in ('frames', 'logs'):
    monkeypatch.setattr(
      f'dlrm_jax.scoring.{room}.FRAME_ROWS', 90, raising=False
    )
  for reader in ('csv', 'parquet'):
    name = f'dlrm_jax.prepare.readers.{reader}_reader.FRAME_ROWS'
    monkeypatch.setattr(name, 90)
  monkeypatch.setattr('dlrm_jax.prepare.readers.lines.PIECE_BYTES', 5_000)
  path = tmp_path / f'rows.{kind}'
  if kind == 'csv':
    path.write_text(scored.csv_of(scored.rows_of(0)))
  elif kind == 'parquet':
    frame = scored.frame_of(scored.rows_of(0), model.intake.schema)
    frame.write_parquet(path)
  rows = columns if kind == 'memory' else path
  check(small.predict(rows), want_of(plain))


@pytest.mark.parametrize('devices', [1, 8])
def test_no_more_than_one_compilation_of_each_power_of_two(devices):
  sizes = set()

  def score(inputs):
    sizes.add(len(inputs.ids))
    return inputs.dense

  mesh = sharding.make_mesh(jax.devices()[:devices])
  some = scorer.Scorer(score, mesh)
  for rows in range(1, 130):
    dense = np.float32(np.arange(rows)[:, None])
    got = some(Inputs(dense, np.zeros((rows, 3), np.int32)))
    np.testing.assert_array_equal(got, dense)
  assert sizes == {2**k for k in range(9) if 2**k >= devices}


def changed(columns, rows, **changes):
  """The first rows, with some columns replaced."""
  return {n: v[:rows] for n, v in columns.items()} | changes


def ids_of(model, columns):
  return model.intake.inputs(pl.DataFrame(columns, strict=False)).ids


def test_unknown_values_have_the_row_of_unknown_ones(plain, model, columns):
  new = changed(
    columns,
    2,
    user=[10**15, -999],
    site=['ffffffff', '12'],
    word=['never', 'ever'],
    tags=[['new'], ['newer']],
  )
  ids = ids_of(model, new)
  assert (ids[:, [0, 1, 2, 4]] == 0).all()
  want = plain.probabilities(model.intake.inputs(pl.DataFrame(new)))
  check(model.predict(new), want[:, 0])


@pytest.mark.parametrize(
  ('column', 'values'),
  [
    ('user', np.array([np.nan] * 3)),
    ('user', [None, float('nan'), None]),
    ('word', [None, float('nan'), None]),
    ('site', [None, '', None]),
    ('price', [None, float('nan'), None]),
    ('price', np.array([np.nan] * 3, np.float32)),
    ('tags', [None, [], [None]]),
  ],
)
def test_missing_values_of_every_spelling(model, columns, column, values):
  nothing = [] if column == 'tags' else None
  want = model.predict(changed(columns, 3, **{column: [nothing] * 3}))
  got = model.predict(changed(columns, 3, **{column: values}))
  np.testing.assert_array_equal(got, want)


def test_missing_is_not_zero(model, columns):
  some = model.predict(changed(columns, 1, price=[0.5], word=['x']))
  assert model.predict(changed(columns, 1, price=[0.5], word=[None])) != some
  assert model.predict(changed(columns, 1, price=[None], word=['x'])) != some


def test_a_column_without_any_value(model, columns):
  got = model.predict(changed(columns, 4, word=[None] * 4, tags=[[]] * 4))
  assert np.isfinite(got).all()


def test_bags_are_cut_to_the_longest_of_the_training(model, columns):
  long = [['tag1', 'tag2', 'tag3', 'tag4', 'tag5']]
  (got,) = model.predict(changed(columns, 1, tags=long))
  (want,) = model.predict(changed(columns, 1, tags=[long[0][:3]]))
  assert got == want
  assert got != model.predict(changed(columns, 1, tags=[long[0][:2]]))[0]


def test_bags_as_text_and_as_arrays(model, columns):
  want = model.predict(changed(columns, 2, tags=[['tag1', 'tag2'], ['tag3']]))
  for tags in (
    ['tag1|tag2', 'tag3'],
    [np.array(['tag1', 'tag2']), np.array(['tag3'])],
    pl.Series([['tag1', 'tag2'], ['tag3']]),
  ):
    got = model.predict(changed(columns, 2, tags=tags))
    np.testing.assert_array_equal(got, want)
  same = changed(columns, 2, tags=np.array([['tag1', 'tag2']] * 2))
  assert model.predict(same)[0] == want[0]


def test_arrays_of_jax_and_ranges(model, columns):
  want = model.predict(changed(columns, 4, age=[0.0, 1.0, 2.0, 3.0]))
  for age in (range(4), (0, 1, 2, 3), jax.numpy.arange(4.0), np.arange(4)):
    got = model.predict(changed(columns, 4, age=age))
    np.testing.assert_array_equal(got, want)


def test_integers_up_to_64_bits_are_one_value_in_every_type(model, columns):
  for user in (
    np.array([7], np.int8),
    np.array([7], np.uint64),
    np.array([7.0]),
    ['7'],
    ['+7'],
  ):
    ids = ids_of(model, changed(columns, 1, user=user))
    assert (ids == ids_of(model, changed(columns, 1, user=[7]))).all()
  big = changed(columns, 1, user=np.array([2**64 - 1], np.uint64))
  assert np.isfinite(model.predict(big)).all()


def test_more_columns_than_needed_are_no_matter(model, columns):
  more = changed(columns, 3, other=object())
  np.testing.assert_array_equal(
    model.predict(more), model.predict(changed(columns, 3))
  )


MISTAKES = {
  'no columns': ({}, ["no column 'price'", 'there are none']),
  'a missing column': ({'word': ...}, ["no column 'word'", "'user'"]),
  'a misspelt column': (
    {'word': ..., 'wrod': ['x'] * 3},
    ["no column 'word'", "did you mean 'wrod'?"],
  ),
  'text for numbers': (
    {'price': ['1', 'cheap', '2']},
    ['row 2', 'column price', "'cheap'", 'number'],
  ),
  'an infinite number': ({'price': [1, 2, float('inf')]}, ['row 3', 'inf']),
  'no whole number': ({'user': [1, 2.5, 3]}, ['row 2', 'user', '2.5']),
  'no hex': ({'site': ['ff', '1', 'xyz']}, ['row 3', 'site', "'xyz'", 'hex']),
  'numbers for text': ({'word': [1, 2, 3]}, ["'word'", 'Int64', 'as text']),
  'other lengths': (
    {'word': ['x']},
    ["'word' has 1", 'has 3 values', 'as many in each'],
  ),
  'a scalar': ({'price': 3.5}, ["'price' is 3.5", 'a list']),
  'a scalar of NumPy': ({'price': np.float32(2)}, ["'price' is 2.0", 'list']),
  'a text': ({'word': 'abc'}, ["'word' is 'abc'", 'a list']),
  'a set': ({'price': {1, 2, 3}}, ["'price' is {1, 2, 3}", 'a list']),
  'two dimensions': ({'price': np.ones((3, 2))}, ["'price'", 'numbers']),
  'dates': (
    {'price': np.array(['2020-01-01'] * 3, 'datetime64[D]')},
    ["'price' is Date", 'numbers'],
  ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_end_in_one_line(name, model, columns):
  changes, words = MISTAKES[name]
  rows = changed(columns, 3, **changes) if changes else {}
  rows = {name: values for name, values in rows.items() if values is not ...}
  with pytest.raises(InputError) as caught:
    model.predict(rows)
  message = str(caught.value)
  assert message.startswith('the data')
  assert '\n' not in message
  assert '--on_bad_row' not in message
  for word in words:
    assert word in message


@pytest.mark.parametrize('rows', [None, 3, [{'price': 1}], np.ones((2, 2))])
def test_rows_of_no_known_kind(model, rows):
  kind = type(rows).__name__
  with pytest.raises(InputError, match=f'type {kind}; expected a dict'):
    model.predict(rows)


def test_a_lazy_frame_that_fails(model):
  with pytest.raises(InputError, match=r'the data: .*"b"') as caught:
    model.predict(pl.LazyFrame({'a': [1]}).select('b'))
  assert '\n' not in str(caught.value)


def test_weights_that_do_not_fit_their_bags(weighted):
  model = dlrm_jax.load(weighted.folder)
  columns = scored.columns_of(scored.rows_of(0, 1), model.intake.schema)
  columns |= {'seen': [[3, 4]], 'scores': [[1.0]]}
  with pytest.raises(InputError, match='row 1, column scores: weights do not'):
    model.predict(columns)


def test_splits_belong_to_prepared_sets(model, columns, tmp_path):
  with pytest.raises(InputError, match=r"split='train'.* a dict"):
    model.predict(columns, split='train')
  path = tmp_path / 'rows.csv'
  path.write_text(scored.csv_of(scored.rows_of(0)))
  with pytest.raises(InputError, match=r'rows.csv is a raw file and has no'):
    model.predict(path, split='test')


def test_a_set_of_other_columns(plain, weighted):
  model = dlrm_jax.load(plain.folder)
  with pytest.raises(InputError, match='other sparse'):
    model.predict(weighted.data)


def test_two_threads_use_one_model(plain, columns):
  with mock.patch.object(
    of_run, 'intake_of_run', wraps=of_run.intake_of_run
  ) as opened:
    fresh = dlrm_jax.load(plain.folder)
  found = {}
  both = threading.Barrier(2)

  def use(name, rows):
    both.wait()
    found[name] = [
      fresh.predict({n: v[:rows] for n, v in columns.items()}) for _ in range(3)
    ]

  threads = [
    threading.Thread(target=use, args=(name, rows))
    for name, rows in (('a', 40), ('b', 400))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  want = want_of(plain)
  for got in found['a']:
    check(got, want[:40])
  for got in found['b']:
    check(got, want)
  opened.assert_called_once()


def test_an_intake_is_written_and_read_again(weighted, tmp_path):
  """An export keeps it as JSON, with the files of its vocabularies."""
  made = dlrm_jax.load(weighted.folder).intake
  folder = made.coders[0].tables[0].parent if made.coders[0].tables else None
  fields = intake.to_json(made)
  again = intake.from_json(fields, folder or tmp_path)
  assert intake.to_json(again) == fields
  assert again.schema == made.schema
  assert again.columns == made.columns


def test_pieces_of_a_prepared_set_are_checked(model, plain):
  """Ids of a set are rows already; they have passed no vocabulary."""
  data = plain.data
  inputs = scored.blocks_of(data, 'test')
  assert isinstance(inputs, Inputs)
  np.testing.assert_allclose(
    model.score(*inputs[:2]), model.predict(data), rtol=0, atol=1e-6
  )
