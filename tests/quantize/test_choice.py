"""What --tables and --memory choose."""

import pytest

from configs import criteo_kaggle
from dlrm_jax.build.storages import storages_of, with_storages
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.low_precision import INT8
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError
from dlrm_jax.quantize.budget import Option, bytes_of, cheapest, groups_of
from dlrm_jax.quantize.choice import read_choice

FEATURES = ['C1', 'C2', 'C10']


@pytest.mark.parametrize(
  ('text', 'chosen'),
  [
    ('int8', ['int8', 'int8', 'int8']),
    ('C1=int4,*=int8', ['int4', 'int8', 'int8']),
    ('C1*=int4', ['int4', 'float16', 'int4']),
  ],
)
def test_the_first_pattern_that_fits_counts(text, chosen):
  before = dict.fromkeys(FEATURES, 'float16')
  assert read_choice(text, FEATURES, before) == dict(
    zip(FEATURES, chosen, strict=True)
  )


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('int3', "'int3' is no storage; expected one of float32"),
    ('C1=', "'' is no storage"),
    ('*=int8,C1=int4', 'C1=int4 has no effect, .*; put it first'),
    ('X=int8', 'no feature is named X; there are C1, C2, C10'),
  ],
)
def test_what_names_nothing_is_refused(text, message):
  with pytest.raises(InputError, match=message):
    read_choice(text, FEATURES, {})


def test_a_config_keeps_the_other_fields_of_its_features():
  config = criteo_kaggle.get_config()
  config.tables.features = {'C1': {'encoding': 'hashed', 'rows': 10}}
  mixed = {'C1': 'int8', 'C2': 'float32'}
  changed = with_storages(config, mixed)
  assert storages_of(changed, ['C1', 'C2']) == mixed
  assert changed.tables.features.C1.rows == 10
  alike = with_storages(changed, dict.fromkeys(FEATURES, 'int4'))
  assert alike.tables.storage == 'int4'
  assert alike.tables.features.to_dict() == config.tables.features.to_dict()


def test_features_that_share_a_table_are_kept_alike():
  shared, own = Table('t', 10, 4, storage=INT8), Table('u', 20, 4)
  features = [
    Feature('a', Plain(shared)),
    Feature('b', Plain(own)),
    Feature('c', Plain(shared)),
  ]
  assert groups_of(features) == [('b',), ('a', 'c')]
  assert bytes_of(features, ('a', 'c')) == 10 * (4 + 8)
  assert bytes_of(features, ('b',)) == 20 * 16


def test_bytes_go_where_they_save_the_most_loss():
  options = {
    ('big',): [
      Option('float32', 1000, 0.0),
      Option('int8', 300, 1e-6),
      Option('int4', 150, 1e-5),
    ],
    ('small',): [
      Option('float32', 100, 0.0),
      Option('int8', 30, 1e-5),
      Option('int4', 15, 1e-3),
    ],
  }
  budgets = {1100: ('float32', 'float32'), 400: ('int8', 'float32')}
  budgets |= {250: ('int4', 'float32'), 180: ('int4', 'int8')}
  budgets |= {165: ('int4', 'int4')}
  for budget, (big, small) in budgets.items():
    assert cheapest(options, budget) == {'big': big, 'small': small}
  with pytest.raises(InputError, match='the tables have 165 B; ask for that'):
    cheapest(options, 164)


def test_a_storage_that_is_larger_and_no_better_is_not_chosen():
  options = {
    ('a',): [
      Option('float32', 100, 0.0),
      Option('float16', 50, 1e-5),
      Option('int8', 40, 1e-6),
    ]
  }
  assert cheapest(options, 60) == {'a': 'int8'}
