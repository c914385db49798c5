"""Vectors of features: written as files, and taken into a new run."""

import pathlib
import re

import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax.convert.__main__ import main
from tests import scored

FEATURES = {'user': 'user.parquet', 'site': 'site.csv', 'word': 'word.csv',
            'tags': 'tags.parquet'}  # fmt: skip


@pytest.fixture
def config(plain, tmp_path, monkeypatch):
  """Flags of a config of the same model and set, in another folder."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'config.py').write_text(
    'from tests import scored\n\n\ndef get_config():\n'
    f'  return scored.config_of({plain.data!r})\n'
  )
  return ['--config=config.py']


def tables(features):
  return ['--tables', *(f'{k}={v}' for k, v in features.items())]


@pytest.fixture
def written(plain, config):
  flags = ['--to=tables', f'--workdir={plain.folder}', *tables(FEATURES)]
  assert main(flags) == 0


def matrix(folder, feature, role=None):
  return dlrm_jax.load(folder).learned.matrix(feature, role)


def test_a_file_has_the_values_and_vectors_of_a_feature(plain, written):
  model = dlrm_jax.load(plain.folder)
  frame = pl.read_parquet('user.parquet')
  assert frame.equals(model.vectors('user').cast(frame.schema))
  found = pl.read_csv('word.csv', infer_schema=False)
  wanted = model.vectors('word')
  assert found['value'].to_list() == wanted['value'].to_list()
  numbers = found.select(pl.selectors.starts_with('v').exclude('value'))
  np.testing.assert_array_equal(
    numbers.cast(pl.Float32).to_numpy(), wanted['vector'].to_numpy()
  )


def test_a_run_begins_with_the_vectors_of_files(plain, written, config, capsys):
  flags = ['--from=tables', '--workdir=new', *config, *tables(FEATURES)]
  assert main(flags) == 0
  assert 'tags: ' in capsys.readouterr().out
  for feature, file in FEATURES.items():
    read = pl.read_parquet if file.endswith('t') else pl.read_csv
    assert read(file)['value'].null_count()  # unknown and missing values
    found, wanted = matrix('new', feature), matrix(plain.folder, feature)
    np.testing.assert_array_equal(found, wanted)
  assert not (matrix('new', 'city') == matrix(plain.folder, 'city')).any()


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_hashed_values_come_back_by_row(plain, config, capsys, suffix):
  file = f'city.{suffix}'
  flags = ['--to=tables', f'--workdir={plain.folder}', f'--tables=city={file}']
  assert main(flags) == 0
  flags = ['--from=tables', '--workdir=new', *config, f'--tables=city={file}']
  assert main(flags) == 0
  assert f'city: 20 of 20 rows from {file}\n' in capsys.readouterr().out
  np.testing.assert_array_equal(
    matrix('new', 'city'), matrix(plain.folder, 'city')
  )


def test_a_row_stands_for_a_value_only_where_there_is_none(plain, config):
  frame = dlrm_jax.load(plain.folder).vectors('word')
  values = [None, 'é', 'nobody']
  rows = [frame.height - 1, 0, 1]
  vectors = [[float(k)] * 4 for k in range(3)]
  columns = {'row': rows, 'value': values, 'vector': vectors}
  pl.DataFrame(columns).write_parquet('file.parquet')
  flags = ['--from=tables', '--workdir=new', *config]
  assert main([*flags, '--tables=word=file.parquet']) == 0
  found = matrix('new', 'word')
  np.testing.assert_array_equal(found[-1], vectors[0])
  (row,) = frame.filter(pl.col('value') == 'é')['row']
  np.testing.assert_array_equal(found[row], vectors[1])
  assert (found == 2).all(1).sum() == 0


def test_rows_are_named_by_number_where_there_is_no_value(
  plain, written, config
):
  pl.read_parquet('user.parquet').drop('value').write_parquet('rows.parquet')
  flags = ['--from=tables', '--workdir=new', *config]
  assert main([*flags, '--tables', 'user=rows.parquet']) == 0
  np.testing.assert_array_equal(
    matrix('new', 'user'), matrix(plain.folder, 'user')
  )


def test_of_several_vectors_the_last_one_stays_and_unknown_values_are_counted(
  config, capsys
):
  vectors = [[float(k)] * 4 for k in range(4)]
  values = ['x', 'nobody', 'x', 'é']
  frame = pl.DataFrame({'value': values, 'vector': vectors})
  frame.write_parquet('word.parquet')
  flags = ['--from=tables', '--workdir=new', *config]
  assert main([*flags, '--tables=word=word.parquet']) == 0
  assert '2 of ' in (out := capsys.readouterr().out)
  assert '1 vectors are of values' in out
  by_value = dict(
    dlrm_jax.load('new').vectors('word').select('value', 'vector').rows()
  )
  assert list(by_value['x']) == [2.0] * 4
  assert list(by_value['é']) == [3.0] * 4


def frame(**changes):
  columns = {'value': ['x'], 'vector': [[1.0] * 4]} | changes
  return pl.DataFrame({k: v for k, v in columns.items() if v is not None})


@pytest.mark.parametrize(
  ('table', 'columns', 'why'),
  [
    ('word', {'vector': [[1.0] * 3]}, r'width 4: set config\.model\.dim=3'),
    (
      'word',
      {'vector': [[1.0, 2.0, 3.0, None]]},
      'missing, no number or not finite',
    ),
    ('word', {'vector': [1.0]}, 'Float64; expected lists'),
    ('word', {'value': None}, r'expected a column value \(or row\)'),
    ('user', {'value': ['x']}, 'not an integer'),
    (
      'word',
      {'value': ['nobody']},
      'none of its 1 vectors is of a row of word',
    ),
    ('city', {'value': [None]}, r'rows 0 to 19 in a column row'),
    ('word', {'value': None, 'row': [-1]}, 'none of its 1 vectors'),
    ('word', {'value': [], 'vector': []}, 'none of its 0 vectors'),
    ('who', {}, 'no such feature; expected one of user'),
  ],
)
def test_a_file_that_does_not_fit_is_refused(
  config, capsys, table, columns, why
):
  frame(**columns).write_parquet('file.parquet')
  flags = ['--from=tables', '--workdir=new', *config]
  assert main([*flags, f'--tables={table}=file.parquet']) == 1
  assert re.search(why, capsys.readouterr().err)
  assert not pathlib.Path('new').exists()


@pytest.mark.parametrize(
  ('words', 'why'),
  [
    (['word'], 'expected FEATURE=FILE'),
    (['word=w.txt'], 'ends in .csv or .parquet'),
    (['word=w.csv', 'word=x.csv'], 'has a file already'),
    (['word=none.csv'], 'no such file'),
    (['word=w.csv', 'word/vectors=x.csv'], 'has a file already'),
    (['word/gmf=w.csv'], 'no role gmf; expected word/vectors'),
    (['who/vectors=w.csv'], 'no such feature; expected one of user'),
  ],
)
def test_pairs_of_features_and_files_are_checked(config, capsys, words, why):
  flags = ['--from=tables', '--workdir=new', *config, '--tables', *words]
  assert main(flags) == 1
  assert why in capsys.readouterr().err


def test_a_value_that_shares_its_rows_has_no_vector_to_take(config, capsys):
  frame().write_parquet('file.parquet')
  flags = ['--from=tables', '--workdir=new', *config]
  flags += ['--config.tables.encoding=quotient_remainder']
  assert main([*flags, '--tables=word=file.parquet']) == 1
  assert 'set config.tables.encoding=plain' in capsys.readouterr().err


@pytest.fixture(scope='module', params=['neumf', 'deepfm', 'branches'])
def roles(request, tmp_path_factory):
  """A run with two vectors of every feature, and the roles of these."""
  name, *found = {
    'neumf': ('neumf', 'gmf', 'mlp'),
    'deepfm': ('deepfm', 'vectors', 'linear'),
    'branches': ('dlrm', 'vectors.b0', 'vectors.b1'),
  }[request.param]
  fields = {'model__branches': 2} if request.param == 'branches' else {}
  folder = tmp_path_factory.mktemp(request.param)
  run = scored.of_log(folder, scored.PAIRS, name, **fields)
  return run, found


@pytest.mark.slow
def test_a_role_says_which_vectors_of_a_feature(roles, tmp_path, monkeypatch):
  run, names = roles
  monkeypatch.chdir(tmp_path)
  model = dlrm_jax.load(run.folder)
  assert model.describe()['roles'] == names
  pairs = [f'user/{role}={role}.parquet' for role in names]
  flags = [f'--workdir={run.folder}', '--tables', *pairs]
  assert main(['--to=tables', *flags]) == 0
  for role in names:
    wanted = model.vectors('user', role)
    assert pl.read_parquet(f'{role}.parquet').equals(wanted)
  (tmp_path / 'config.py').write_text(
    'import ml_collections\n\n\ndef get_config():\n'
    f'  return ml_collections.ConfigDict({run.run.config!r})\n'
  )
  flags = ['--config=config.py', '--workdir=new', '--tables', *pairs]
  assert main(['--from=tables', *flags]) == 0
  for role in names:
    np.testing.assert_array_equal(
      matrix('new', 'user', role), matrix(run.folder, 'user', role)
    )


@pytest.mark.parametrize(
  ('word', 'why'),
  [
    ('user', 'several vectors of user; expected one of user/{0}, user/{1}'),
    ('user/x', 'no role x; expected user/{0}, user/{1}'),
  ],
)
def test_a_feature_of_several_roles_needs_one(
  roles, tmp_path, capsys, word, why
):
  run, names = roles
  flags = [f'--workdir={run.folder}', f'--tables={word}={tmp_path}/x.csv']
  assert main(['--to=tables', *flags]) == 1
  assert why.format(*names) in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_the_other_features_of_a_shared_table_are_named(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  fields = {
    'tables__features': {'user': {'table': 'a'}, 'word': {'table': 'a'}}
  }
  run = scored.of_log(tmp_path, scored.PAIRS, **fields)
  flags = [f'--workdir={run.folder}', '--tables=user=x.csv']
  assert main(['--to=tables', *flags]) == 0
  said = capsys.readouterr().out
  assert 'vectors of user; the table is also that of word\n' in said


@pytest.mark.parametrize(
  'words', [['word=x.csv'], ['word=y.csv', 'tags=y.csv']]
)
def test_a_file_is_not_replaced(plain, tmp_path, monkeypatch, capsys, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'x.csv').write_text('mine')
  flags = ['--to=tables', f'--workdir={plain.folder}', '--tables', *words]
  assert main(flags) == 1
  assert re.search('is (there|named) already', capsys.readouterr().err)
  assert (tmp_path / 'x.csv').read_text() == 'mine'
  assert list(tmp_path.iterdir()) == [tmp_path / 'x.csv']


def test_a_run_begins_with_tables_or_with_another_run(plain, config, capsys):
  frame().write_parquet('file.parquet')
  flags = ['--from=tables', '--workdir=new', *config]
  flags += ['--tables=word=file.parquet']
  flags += [f'--config.train.init_from={plain.folder}']
  assert main(flags) == 1
  assert 'the first state is that of --tables' in capsys.readouterr().err


def test_help_without_a_direction_shows_each_with_its_flags(capsys):
  with pytest.raises(SystemExit):
    main(['--help'])
  usage = capsys.readouterr().out.partition('Converts')[0].split('python')[1:]
  flags = [set(re.findall(r'--(?!config\.)\w+', one)) for one in usage]
  ways = ['--from'], ['--from'], ['--to'], ['--to']
  needed = (
    ['--input', '--config'],
    ['--tables', '--config'],
    ['--checkpoint', '--output'],
    ['--checkpoint', '--tables'],
  )
  assert flags == [
    {*way, *some, '--workdir'} for way, some in zip(ways, needed, strict=True)
  ]
