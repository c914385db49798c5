"""Arrays as the network takes them."""

import jax
import numpy as np
import pytest

import dlrm_jax
from dlrm_jax.batch import PAD
from dlrm_jax.errors import InputError
from tests import scored


@pytest.fixture(params=['workdir', 'export'], scope='module')
def model(request, plain, export):
  folder = {'workdir': plain.folder, 'export': export}[request.param]
  return dlrm_jax.load(folder)


@pytest.fixture(scope='module')
def inputs(plain):
  return scored.blocks_of(plain.data, 'train')


def test_probabilities_of_one_task(model, plain, inputs):
  found = model.score(inputs.dense, inputs.ids)
  assert (found.shape, found.dtype) == ((200,), np.float32)
  want = plain.probabilities(inputs)[:, 0]
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_probabilities_of_two_tasks(two_labels):
  model = dlrm_jax.load(two_labels.folder)
  inputs = scored.blocks_of(two_labels.data, 'train')
  found = model.score(inputs.dense, inputs.ids)
  assert (found.shape, found.dtype) == ((200, 2), np.float32)
  want = two_labels.probabilities(inputs)
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  assert model.labels == ('click', 'buy')
  assert model.score(inputs.dense[:0], inputs.ids[:0]).shape == (0, 2)


def test_other_numbers_and_lists(model, inputs):
  dense, ids = inputs.dense[:4], inputs.ids[:4]
  want = model.score(dense, ids)
  for other in (
    (dense.astype(np.float64), ids.astype(np.int64)),
    (dense.tolist(), ids.tolist()),
    (jax.numpy.asarray(dense), jax.numpy.asarray(ids)),
  ):
    np.testing.assert_array_equal(model.score(*other), want)
  assert model.score(dense[:0], ids[:0]).shape == (0,)


def test_ids_out_of_range_count_as_no_id(model, inputs):
  """The first column has 25 rows; ids of others are not reached."""
  dense, ids = inputs.dense[:3], inputs.ids[:3].copy()
  ids[:, 0] = PAD
  want = model.score(dense, ids)
  for wrong in (25, 26, 10**6, 2**31 - 1, -2, -(2**31)):
    ids[:, 0] = wrong
    np.testing.assert_array_equal(model.score(dense, ids), want)
  ids[:, 0] = 24
  assert (model.score(dense, ids) != want).all()


@pytest.mark.parametrize('kind', ['workdir', 'export'])
def test_weights_of_ids(weighted, tmp_path, kind):
  folder = weighted.folder
  if kind == 'export':
    folder = scored.exported(weighted, tmp_path / 'export')
  model = dlrm_jax.load(folder)
  inputs = scored.blocks_of(weighted.data, 'train')
  found = model.score(*inputs[:3])
  want = weighted.probabilities(inputs)[:, 0]
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  once = model.score(inputs.dense, inputs.ids)
  ones = inputs._replace(id_weights=np.ones_like(inputs.id_weights))
  np.testing.assert_allclose(once, model.score(*ones[:3]), rtol=0, atol=1e-6)
  assert abs(once - found).max() > 0.01


def test_weights_for_a_model_of_columns_without_any(model, inputs):
  ones = np.ones(inputs.ids.shape, np.float32)
  ones[:, -3:] = 0
  none = inputs.ids.copy()
  none[:, -3:] = PAD
  np.testing.assert_allclose(
    model.score(inputs.dense, inputs.ids, ones),
    model.score(inputs.dense, none),
    rtol=0,
    atol=1e-6,
  )


def wrong(name):
  dense, ids, weights = np.zeros((3, 2)), np.zeros((3, 7), int), None
  if name == 'raw ids':
    ids = ids + 2**40
  elif name == 'raw ids without a sign':
    ids = np.full((3, 7), 2**63, np.uint64)
  elif name == 'floats':
    ids = ids.astype(float)
  elif name == 'text':
    ids = [['a'] * 7] * 3
  elif name == 'ragged':
    ids = [[1], [2, 3]]
  elif name == 'rows':
    dense = dense[:2]
  elif name == 'columns':
    ids = ids[:, 1:]
  elif name == 'no batch':
    ids = ids[0]
  elif name == 'nothing':
    dense = None
  elif name == 'text for numbers':
    dense = [['a', 'b']] * 3
  elif name == 'weights':
    weights = np.ones(3)
  return dense, ids, weights


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('raw ids', ['ids', '1099511627776', 'int32', 'predict']),
    ('raw ids without a sign', ['ids', '9223372036854775808', 'int32']),
    ('floats', ['ids', 'float64', 'integers']),
    ('text', ['ids', 'integers']),
    ('ragged', ['ids', 'lengths']),
    ('rows', ['dense', '[2, 2]', '[3, 2]']),
    ('columns', ['ids', '[3, 6]', '[3, 7]']),
    ('no batch', ['shape']),
    ('nothing', ['dense', '[3, 2]']),
    ('text for numbers', ['dense', 'numbers']),
    ('weights', ['id_weights', '[3]', '[3, 7]']),
  ],
)
def test_mistakes_end_in_one_line(model, name, words):
  with pytest.raises(InputError) as caught:
    model.score(*wrong(name))
  assert '\n' not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(model, inputs):
  dense = inputs.dense[:2].copy()
  for wrong in (np.nan, np.inf):
    dense[1, 0] = wrong
    with pytest.raises(InputError, match=r'dense .* not finite'):
      model.score(dense, inputs.ids[:2])


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
  """A run whose weighted bag is averaged, and its export."""
  folder = tmp_path_factory.mktemp('averaged')
  raw = scored.WEIGHTED
  rows = [row | {'scores': row['scores'].replace('-', '')}
          for row in scored.rows_of(0)]  # fmt: skip
  folder.mkdir(exist_ok=True)
  data = scored.prepared(folder, raw, scored.csv_of(rows))
  config = scored.config_of(data, tables__pooling='mean')
  run = scored.made(folder / 'run', config)
  return run.folder, scored.exported(run, folder / 'export'), rows


@pytest.mark.parametrize('number', [0, 1])
def test_a_mean_has_no_negative_weights(averaged, number, tmp_path):
  """Their sum could be 0."""
  model = dlrm_jax.load(averaged[number])
  rows = [row | {'seen': '1|2', 'scores': '1|0.5'} for row in averaged[2][:3]]
  schema = model.intake.schema
  assert len(model.predict(scored.columns_of(rows, schema))) == 3
  rows[1]['scores'] = '1|-0.5'
  with pytest.raises(InputError, match=r'seen has an id of weight -0\.5'):
    model.predict(scored.columns_of(rows, schema))
  (tmp_path / 'new.csv').write_text(scored.csv_of(rows))
  with pytest.raises(InputError, match=r'seen has an id of weight -0\.5'):
    model.predict(tmp_path / 'new.csv')
  sizes = model.card.schema
  weights = np.full((1, sizes.hotness), -1.0)
  with pytest.raises(InputError, match='user has an id of weight -1'):
    model.score(np.zeros((1, 2)), np.ones((1, sizes.hotness), int), weights)
