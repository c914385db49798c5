"""Grids: how they are written, and which points they have."""

import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.sweep.grid import build_points, read_grid
from tests import small


def points(text, **fields):
  config = small.get_config()
  config.update_from_flattened_dict(fields)
  known = small.get_config().to_dict()
  return build_points(config.lock(), read_grid(text), known)


def test_the_last_field_changes_fastest():
  found, notes = points('optimizer.learning_rate=[1e-3,3e-3] model.dim=[8, 4]')
  assert [str(point) for point in found] == [
    'learning_rate=0.001,dim=8',
    'learning_rate=0.001,dim=4',
    'learning_rate=0.003,dim=8',
    'learning_rate=0.003,dim=4',
  ]
  assert [config.model.dim for config in found.values()] == [8, 4, 8, 4]
  assert not notes


def test_a_grid_without_fields_has_one_point():
  found, _ = points('')
  assert [str(point) for point in found] == ['']


@pytest.mark.parametrize(
  ('text', 'values'),
  [
    ('optimizer.name=[sgd,adam]', ['sgd', 'adam']),
    ('optimizer.name=["sgd", \'adam\']', ['sgd', 'adam']),
    ('model.top=[(64,32),(8,),16]', [(64, 32), (8,), (16,)]),
    ('train.fresh_tables=[true,false]', [True, False]),
    ('data.dir=["a b",c]  ', ['a b', 'c']),
  ],
)
def test_values_are_words_or_literals(text, values):
  found, _ = points(text, **{'data.kind': 'prepared'})
  assert [point.settings[0][1] for point in found] == values


def test_equal_last_words_are_told_apart_in_names():
  (found, *_), _ = points(
    'optimizer.learning_rate=[1e-3,1] table_optimizer.learning_rate=[0.1,1] '
    'data.dir=["a/b",c]',
    **{'data.kind': 'prepared'},
  )
  assert found.folder == (
    'optimizer.learning_rate=0.001,table_optimizer.learning_rate=0.1,dir=a%2Fb'
  )


def test_features_have_fields_of_their_own():
  found, _ = points('tables.features.S1.placement=[row_wise,table_wise]')
  assert [c.tables.features.S1.placement for c in found.values()] == [
    'row_wise',
    'table_wise',
  ]


def test_points_that_differ_without_effect_are_left_out():
  found, notes = points('optimizer.name=[sgd,adam] optimizer.b1=[0.8,0.9]')
  assert len(found) == 3
  assert notes == ['name=sgd,b1=0.9: left out, the same run as name=sgd,b1=0.8']


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('tables.l2', ['tables.l2', 'FIELD=[VALUE,VALUE,...]']),
    ('tables.l2=0.1', ['tables.l2=0.1', 'FIELD=[VALUE,VALUE,...]']),
    ('tables.l2=[]', ['tables.l2=[]', 'FIELD=[VALUE,VALUE,...]']),
    ('tables.l2=[0.1,]', ['tables.l2=[0.1,]']),
    ('tables.l2 = [0.1]', ['found tables.l2;', 'apart by spaces']),
    ('tables.l2=[0.1],model.dim=[4]', ['model.dim=[4]', 'apart by spaces']),
    ('tables.l2=[0.1', ['tables.l2=[0.1', 'not closed']),
    ('tables.l2=0.1]', ['not closed']),
    ('model.dim=[4] model.dim=[8]', ['model.dim is there twice', 'one list']),
    ('model.dims=[4]', ['config.model.dims', 'did you mean dim?']),
    ('l2=[0.1]', ['config.l2', 'config.tables.l2']),
    ('model.dim=[4,many]', ['config.model.dim=many', 'a whole number']),
    ('model.dim=[4,0.5]', ['config.model.dim=0.5', 'a whole number']),
    ('tables.features.S1=[plain]', ['tables.features.S1', 'FEATURE.FIELD']),
    ('optimizer=[{}]', ['optimizer has fields of its own']),
    ('seed=[0,1]', ['seed cannot be in a grid', '--seeds=NUMBER']),
    ('train.objective=[auc,ne]', ['train.objective cannot be in a grid']),
    ('tables.rank=[4,9]', ['tables.rank', 'no difference', 'tensor_train']),
    ('model.dim=[4,4]', ['model.dim make no difference: they are equal']),
  ],
)
def test_a_wrong_grid_is_refused_in_one_line(text, words):
  with pytest.raises(InputError) as error:
    points(text)
  assert all(word in str(error.value) for word in ['--grid', *words])
  assert '\n' not in str(error.value)
