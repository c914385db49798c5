"""A user's config file, flags that change it, and fields without effect."""

import pytest

from configs import criteo_kaggle, default
from dlrm_jax.config import command_line, config_file
from dlrm_jax.config.parser import Parser
from dlrm_jax.config.unused import unused
from dlrm_jax.errors import InputError
from tests import small
from tests.every_config import NAMES

# Of the library that reads the file.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')

KNOWN = default.get_config().to_dict()

HEAD = """from configs import default
def get_config():
  config = default.get_config()
"""
FILES = {
  'returns nothing': (
    'def get_config():\n  pass\n',
    r'get_config\(\) returns None \(is a return missing\?\)',
  ),
  'returns a dict': (
    'def get_config():\n  return {}\n',
    'returns a dict; expected a ConfigDict',
  ),
  'has no get_config': ('x = 1\n', 'no function get_config'),
  'has a syntax error': (
    'def get_config():\n  x = (\n',
    r", line 2: syntax error: '\(' was never closed",
  ),
  'imports what is not there': (
    '\nimport absent\n',
    ', line 2: ModuleNotFoundError: No module named',
  ),
  'divides by zero in a function': (
    'def f():\n  return 1 / 0\ndef get_config():\n  return f()\n',
    ', line 2: ZeroDivisionError',
  ),
  'names a field that there is not': (
    HEAD + '  config.model.dimm = config.model.dimm + 1\n  return config\n',
    ', line 4: AttributeError: \'dimm\' Did you mean "dim"',
  ),
  'sets a text for a number': (
    HEAD + "  config.optimizer.learning_rate = '0.1'\n",
    r", line 4: TypeError: .*'learning_rate'",
  ),
}


@pytest.mark.parametrize('name', FILES)
def test_a_mistake_in_a_file_is_told_with_its_line(name, tmp_path):
  text, message = FILES[name]
  path = tmp_path / 'mine.py'
  path.write_text(text)
  with pytest.raises(InputError, match=message) as caught:
    config_file.load(str(path))
  assert str(caught.value).startswith(f'--config={path}')
  assert '\n' not in str(caught.value)


def test_variants_that_are_missing_or_too_many_are_named(tmp_path):
  with pytest.raises(InputError, match=r'has no variants .* leave :b out'):
    config_file.load('tests/small.py:b')
  with pytest.raises(
    InputError, match=r'expected reference, best, branches, lr, '
  ):
    config_file.load('configs/criteo_kaggle.py:bst')
  path = tmp_path / 'mine.py'
  path.write_text('def get_config(size):\n  return size\n')
  with pytest.raises(InputError, match='expected a variant'):
    config_file.load(str(path))


WRONG = {
  'train.steps is None; expected a whole number': {'train': {'steps': None}},
  'train.batch_size is 64.0; expected a whole': {'train': {'batch_size': 64.0}},
  'train.keep is True; expected a whole number': {'train': {'keep': True}},
  "learning_rate is '0.1'; expected a number": {
    'optimizer': {'learning_rate': '0.1'}
  },
  'model.bottom is 64; expected a tuple': {'model': {'bottom': 64}},
  'model is 3; expected its fields': {'model': 3},
  'no field lr; did you mean learning_rate': {'optimizer': {'lr': 0.1}},
  'no field learning_rate; did you mean config.optimizer.learning_rate or': {
    'train': {'learning_rate': 0.1}
  },
  'no field strengt; did you mean strength': {
    'data': {'synthetic': {'strengt': {}}}
  },
  'no field bia; did you mean bias': {
    'data': {'synthetic': {'strength': {'bia': 1.0}}}
  },
  'no field wishes; see configs': {'wishes': 1},
}


def merged(tree, changes):
  return tree | {
    name: merged(tree[name], value)
    if isinstance(value, dict) and name in tree
    else value
    for name, value in changes.items()
  }


@pytest.mark.parametrize('message', WRONG)
def test_fields_of_wrong_name_or_type_are_found_at_any_depth(message):
  found = list(config_file.wrong_fields(merged(KNOWN, WRONG[message]), KNOWN))
  assert len(found) == 1
  assert message in found[0]


def test_a_section_that_lost_a_field_is_told():
  given = {**KNOWN, 'model': {'dim': 8}}
  found = list(config_file.wrong_fields(given, KNOWN))
  assert 'config.model.activations is not there' in found[0]


def test_whole_numbers_for_numbers_and_lists_for_tuples_are_right():
  given = merged(KNOWN, {'train': {'epochs': 2}, 'model': {'bottom': [64, 32]}})
  assert not list(config_file.wrong_fields(given, KNOWN))


def parse(*words):
  """The config that a command makes of its flags."""
  parser = Parser(prog='command')
  command_line.add_config(parser)
  return command_line.read_flags(parser, words, KNOWN).config


SMALL = '--config=tests/small.py'


def test_a_field_of_a_feature_is_set_by_flag():
  config = parse(
    SMALL,
    '--config.tables.features.C3.placement=table_wise',
    '--config.tables.features.C3.buckets=(7,0)',
    '--config.model.dim=8',
  )
  assert config.tables.features.C3.to_dict() == {
    'placement': 'table_wise',
    'buckets': (7, 0),
  }
  assert config.model.dim == 8


def test_a_flag_of_a_feature_adds_to_what_the_file_says(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    HEAD + "  config.tables.features.C3 = {'encoding': 'hashed'}\n"
    '  return config\n'
  )
  config = parse(f'--config={path}', '--config.tables.features.C3.rows=5')
  assert config.tables.features.C3.to_dict() == {
    'encoding': 'hashed',
    'rows': 5,
  }


@pytest.mark.parametrize('widths', ['64,32', '(64,32)', '(64, 32)'])
def test_a_tuple_is_typed_with_or_without_parentheses(widths):
  config = parse(SMALL, f'--config.model.bottom={widths}')
  assert tuple(config.model.bottom) == (64, 32)


def test_a_list_of_names_is_cut_at_its_commas():
  flag = '--config.data.raw.sparse=user,item'
  config = parse('--config=configs/frappe.py', flag)
  assert tuple(config.data.raw.sparse) == ('user', 'item')


REFUSED = {
  'config is given 2 times': ['--config=configs/frappe.py'],
  'no field lr; did you mean learning_rate': ['--config.optimizer.lr=1'],
  'no field bs; did you mean config.train.batch_size': ['--config.model.bs=1'],
  'expected --config.tables.features.FEATURE.FIELD=VALUE': [
    '--config.tables.features.C3=4'
  ],
  'fresh_tables=maybe: expected true or false': [
    '--config.train.fresh_tables=maybe'
  ],
  'batch_size=64.0: expected a whole number': [
    '--config.train.batch_size=64.0'
  ],
}


def test_a_flag_without_a_value_leaves_the_next_one_alone():
  config = parse(
    SMALL,
    '--config.train.fresh_tables',
    '--config.tables.features.C1.rows=5',
  )
  assert config.train.fresh_tables
  assert config.tables.features.C1.rows == 5


@pytest.mark.parametrize('message', REFUSED)
def test_a_wrong_flag_is_told_in_one_line(message):
  with pytest.raises(InputError) as caught:
    parse(SMALL, *REFUSED[message])
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)


def changed(**fields):
  config = small.get_config()
  features = fields.pop('features', {})
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  config.tables.features.update(features)
  return config


NO_EFFECT = {
  'tables.rank': {'tables__rank': 4, 'tables__encoding': 'hashed'},
  'tables.rows': {'tables__rows': 100},
  'tables.buckets': {'tables__buckets': (7, 0)},
  'tables.alpha': {'tables__alpha': 0.5, 'tables__encoding': 'robe'},
  'tables.hidden': {'tables__hidden': 8, 'tables__encoding': 'hashed'},
  'tables.combine': {'tables__combine': 'add', 'tables__encoding': 'auto'},
  'tables.multi_hot': {'tables__multi_hot': 'pool_then_combine'},
  'tables.partitions': {'tables__partitions': 'a.csv'},
  'tables.parts': {'tables__parts': 3, 'tables__encoding': 'mixed_dims'},
  'tables.spread': {'tables__spread': 4},
  'tables.state': {
    'tables__state': 'bfloat16',
    'table_optimizer__name': 'sgd',
  },
  'tables.columns': {'tables__columns': 4, 'tables__placement': 'row_wise'},
  'optimizer.decay_start': {
    'optimizer__decay_start': 9,
    'optimizer__decay_steps': 0,
    'optimizer__decay_power': 2.0,
  },
  'optimizer.b1': {'optimizer__b1': 0.8, 'optimizer__name': 'sgd'},
  'train.epochs': {'train__epochs': 4.0},
  'data.dir': {'data__dir': 'somewhere'},
}


def test_a_file_runs_once_and_flags_change_what_it_gave(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    f'with open({str(tmp_path / "runs")!r}, "a") as file:\n'
    f'  file.write("run ")\n{HEAD}  config.seed = 5\n  return config\n'
  )
  config = parse(
    f'--config={path}', '--config.model.dim=8', '--config.model.top=(3,2)'
  )
  assert (tmp_path / 'runs').read_text() == 'run '
  assert (config.seed, config.model.dim, config.model.top) == (5, 8, (3, 2))
  assert config.is_locked


def test_a_text_with_a_comma_is_given_to_a_feature_with_a_dot(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(HEAD + '  return config\n')
  config = parse(
    f'--config={path}', '--config.tables.features.site.id.partitions=a,b.csv'
  )
  assert config.tables.features.to_dict() == {
    'site.id': {'partitions': 'a,b.csv'}
  }


@pytest.mark.parametrize('field', NO_EFFECT)
def test_a_field_without_effect_is_refused_as_a_flag_and_noted_in_a_file(field):
  config = changed(**NO_EFFECT[field])
  with pytest.raises(InputError, match=rf'config\.{field}=.* has no effect'):
    command_line.notes_of_unused(
      ['train.py', f'--config.{field}=x'], config, KNOWN
    )
  notes = command_line.notes_of_unused(['train.py'], config, KNOWN)
  usual = field in ('train.epochs', 'optimizer.decay_start')
  assert [f'config.{field}=' in note for note in notes] == [True] * (not usual)


def test_fields_of_synthetic_data_beside_a_prepared_set_are_noted():
  config = criteo_kaggle.get_config()
  config.data.synthetic.train = 5
  notes = command_line.notes_of_unused([], config, KNOWN)
  assert notes == [
    'config.data.synthetic.train=5 has no effect: data.kind is prepared'
  ]


def test_a_field_of_a_feature_without_effect_is_refused():
  config = changed(features={'C1': {'encoding': 'hashed', 'rank': 4}})
  with pytest.raises(InputError, match=r'features\.C1\.rank=4 has no effect'):
    command_line.notes_of_unused([], config, KNOWN)


def test_a_state_of_a_feature_without_effect_is_refused():
  features = {'C1': {'state': 'bfloat16'}}
  config = changed(features=features, table_optimizer__name='sgd')
  with pytest.raises(InputError, match=r'C1\.state=.*no effect: sgd keeps no'):
    command_line.notes_of_unused([], config, KNOWN)


def test_a_run_that_was_started_with_fields_without_effect_goes_on():
  config = changed(
    tables__rank=4, features={'C1': {'encoding': 'hashed', 'rank': 4}}
  )
  argv = ['train.py', '--config.tables.rank=4', '--config.train.epochs=4.0']
  config.train.epochs = 4.0
  notes = command_line.notes_of_unused(argv, config, KNOWN, started=True)
  assert [note.split('=')[0] for note in notes] == [
    'config.tables.features.C1.rank',
    'config.tables.rank',
    'config.train.epochs',
  ]


def test_one_hash_is_combined_with_nothing():
  one = changed(tables__encoding='hashed', tables__combine='add')
  assert [u.field for u in unused(one.to_dict(), KNOWN)] == ['tables.combine']
  one.tables.parts = 2
  assert not list(unused(one.to_dict(), KNOWN))


def test_a_field_that_one_feature_reads_has_an_effect():
  config = changed(
    tables__rank=4, features={'C1': {'encoding': 'tensor_train'}}
  )
  assert not list(unused(config.to_dict(), KNOWN))


@pytest.mark.parametrize('name', NAMES)
def test_the_configs_that_come_with_it_say_nothing_without_effect(name):
  file, _, variant = name.partition(':')
  word = f'configs/{file}.py' + (f':{variant}' if variant else '')
  config = config_file.load(word)
  assert not list(config_file.wrong_fields(config.to_dict(), KNOWN))
  assert not [u for u in unused(config.to_dict(), KNOWN) if not u.usual]
