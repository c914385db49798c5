"""Vectors of values, and the nearest of them."""

import jax
import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax.errors import InputError
from tests import scored

FEATURES = ('user', 'site', 'word', 'city', 'tags')
ROWS = {'user': 25, 'site': 6, 'word': 8, 'city': 20, 'tags': 10}


@pytest.fixture(params=['workdir', 'export'], scope='module')
def model(request, plain, export):
  folder = {'workdir': plain.folder, 'export': export}[request.param]
  return dlrm_jax.load(folder)


def matrix(frame):
  return frame['vector'].to_numpy()


@pytest.mark.parametrize('feature', FEATURES)
def test_vectors_are_the_rows_of_the_table(model, plain, feature):
  found = model.vectors(feature)
  assert found.columns == ['row', 'value', 'vector']
  assert found['row'].to_list() == list(range(ROWS[feature]))
  assert found.schema['vector'] == pl.Array(pl.Float32, 4)
  collection = plain.run.task.collection
  (name,) = [t.name for t in collection.tables if t.name.startswith(feature)]
  want = collection.read(plain.state.tables, name)[: ROWS[feature]]
  np.testing.assert_array_equal(matrix(found), want)


def test_each_value_has_the_row_that_predictions_give_it(model):
  for feature, column in (('user', 0), ('site', 1), ('word', 2), ('tags', 4)):
    known = model.vectors(feature).filter(pl.col('value').is_not_null())
    assert known.height >= ROWS[feature] - 2
    rows = scored.rows_of(0, known.height)
    columns = scored.columns_of(rows, model.intake.schema)
    values = known['value'].to_list()
    columns[feature] = [[x] for x in values] if feature == 'tags' else values
    ids = model.intake.inputs(pl.DataFrame(columns)).ids
    assert ids[:, column].tolist() == known['row'].to_list()


def test_values_have_the_spelling_of_their_kind(model):
  values = {name: model.vectors(name)['value'] for name in FEATURES}
  assert set(values['user'].drop_nulls()) == set(range(-3, 20))
  assert set(values['site'].drop_nulls()) == {
    '000000ff', '68fd1e64', '00000000', '00000abc'
  }  # fmt: skip
  assert set(values['word'].drop_nulls()) == {
    'é', 'two words', 'x', '4', '4.0', 'NaN'
  }  # fmt: skip
  assert set(values['tags'].drop_nulls()) == {f'tag{k}' for k in range(9)}


def test_values_without_a_row_of_their_own_are_null(model):
  assert model.vectors('word')['value'][0] is None  # unknown values
  assert model.vectors('word')['value'].null_count() == 2  # missing, too
  assert model.vectors('city')['value'].null_count() == 20  # hashed


@pytest.mark.parametrize(
  ('feature', 'value', 'k'),
  [('user', 7, 3), ('word', 'é', 99), ('tags', 'tag3', 5), ('site', 'FF', 2)],
)
def test_similar_values_have_the_largest_cosines(model, feature, value, k):
  vectors = model.vectors(feature)
  spelled = '000000ff' if value == 'FF' else value
  known = vectors.filter(pl.col('value').is_not_null())
  one = matrix(known.filter(pl.col('value') == spelled))[0].astype(float)
  others = known.filter(pl.col('value') != spelled)
  all_of = matrix(others).astype(float)
  cosines = all_of @ one
  cosines /= np.linalg.norm(all_of, axis=1) * np.linalg.norm(one)
  order = np.argsort(-cosines)[:k]
  found = model.similar(feature, value, k)
  assert found.columns == ['row', 'value', 'cosine']
  assert found['value'].to_list() == others['value'][order].to_list()
  assert found['row'].to_list() == others['row'][order].to_list()
  np.testing.assert_allclose(found['cosine'], cosines[order], atol=1e-6)


def test_similar_rows_of_a_hashed_column_have_no_values(model):
  found = model.similar('city', 'city 3', 4)
  assert found.height == 4
  assert found['value'].null_count() == 4


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (('word', 'unseen'), ['word', "'unseen'", 'has no row of its own']),
    (('tags', 'unseen'), ['tags', "'unseen'", 'has no row of its own']),
    (('nope', 3), ["'nope'", 'user, site, word, city, tags']),
    (('price', 3), ["'price'", 'user, site, word, city, tags']),
    (('word', 'é', 0), ['k is 0', '1 or more']),
    (('word', 'é', -2), ['k is -2', '1 or more']),
    (('word', 'é', 2.5), ['k is 2.5', 'whole number']),
    (('user', 'seven'), ['user', "'seven'", 'integer']),
    (('site', 255), ['site', 'hex', 'text']),
    (('word', 'é', 2, 'linear'), ["role 'linear'", 'word', 'vectors']),
  ],
)
def test_mistakes_end_in_one_line(model, arguments, words):
  with pytest.raises(InputError) as caught:
    model.similar(*arguments)
  assert '\n' not in str(caught.value)
  for word in words:
    assert word in str(caught.value)


def test_vectors_of_what_is_not_there(model):
  with pytest.raises(InputError, match=r"'nope': there is none; .* user, site"):
    model.vectors('nope')
  with pytest.raises(InputError, match="'linear': feature user has none"):
    model.vectors('user', role='linear')


def test_a_model_tells_what_it_is(model, plain):
  about = model.describe()
  assert about['model'] == 'dlrm'
  assert about['step'] == scored.STEP
  assert about['metrics'] == {'auc': 0.7}
  assert about['labels'] == ['click']
  assert about['dense'] == ['price', 'age']
  assert about['sparse']['tags'] == {'rows': 10, 'hotness': 3}
  assert about['roles'] == ['vectors']
  assert about['encodings']['user'] == 'plain, width 4'
  assert about['table_numbers'] == 4 * sum(ROWS.values())
  layers = jax.tree.leaves(plain.state.params)
  assert about['layer_numbers'] == sum(x.size for x in layers)
  assert repr(model) == f'<dlrm of {model.card.folder}, step 7: click>'


@pytest.fixture(scope='module')
def neumf(tmp_path_factory):
  """Features with two vectors each, of quotients and remainders."""
  return scored.of_log(
    tmp_path_factory.mktemp('neumf'),
    scored.PAIRS,
    'neumf',
    devices=2,
    tables__shards=2,
    tables__encoding='quotient_remainder',
    tables__combine='mult',
    tables__buckets=(5, 6),
    tables__placement='row_wise',
  )


def test_each_role_has_vectors_of_its_own(neumf):
  """Combined from rows of several tables, on several devices."""
  model = dlrm_jax.load(neumf.folder)
  assert set(model.describe()['roles']) == {'gmf', 'mlp'}
  features = neumf.run.task.collection.features
  collection, tables = neumf.run.task.collection, neumf.state.tables
  found = {}
  for feature in (f for f in features if f.source == 'user'):
    vectors = model.vectors('user', role=feature.role)
    found[feature.role] = matrix(vectors)
    count = feature.encoding.ids
    assert vectors.height == count
    ids = np.arange(count)
    parts = [
      np.asarray(collection.read(tables, f'{feature.name}.{n}')) for n in (1, 2)
    ]
    rows = feature.encoding.rows(jax.numpy.asarray(ids)[:, None])
    want = [
      part[np.asarray(r)[:, 0]] for part, r in zip(parts, rows, strict=True)
    ]
    np.testing.assert_allclose(found[feature.role], want[0] * want[1], 1e-6)
  assert not np.array_equal(found['gmf'], found['mlp'])
  first = features[0].role
  np.testing.assert_array_equal(matrix(model.vectors('user')), found[first])


def test_pieces_of_ids_are_cut_for_any_number_of_devices(
  plain, tmp_path, monkeypatch
):
  config = scored.config_of(plain.data, tables__shards=3)
  run = scored.made(tmp_path / 'run', config, devices=3)
  model = dlrm_jax.load(run.folder)
  want = model.learned.matrix('user')
  monkeypatch.setattr('dlrm_jax.scoring.learned._PIECE', 16)
  assert len(want) > 16
  np.testing.assert_array_equal(model.learned.matrix('user'), want)
