"""Vectors of features: written as files, and taken into a new run."""

import pathlib
import re

import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax.convert.__main__ import main

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


def matrix(folder, feature):
  return dlrm_jax.load(folder).learned.matrix(feature)


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
    known = read(file)['value'].is_not_null().to_numpy()
    found, wanted = matrix('new', feature), matrix(plain.folder, feature)
    np.testing.assert_array_equal(found[known], wanted[known])
    assert not (found[~known] == wanted[~known]).any()
  assert not (matrix('new', 'city') == matrix(plain.folder, 'city')).any()


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
  assert '1 vectors have none there' in out
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
    ('word', {'vector': [[1.0, 2.0, 3.0, None]]}, 'missing or not finite'),
    ('word', {'vector': [1.0]}, 'Float64; expected lists'),
    ('word', {'value': None}, r'expected a column value \(or row\)'),
    ('user', {'value': ['x']}, 'not an integer'),
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
