"""Models of data that is no CSV log: synthetic, libsvm, quoted lines, gone."""

import io
import json
import shutil

import numpy as np
import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.predict.__main__ import main
from dlrm_jax.prepare.values.raw_schema import RawSchema
from dlrm_jax.scoring import stream
from dlrm_jax.scoring.load import load
from dlrm_jax.scoring.sources import source_of
from tests import scored, small


def check(found, want):
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


@pytest.fixture(scope='module')
def synthetic(tmp_path_factory):
  """A run of synthetic data, whose ids are rows."""
  config = small.get_config()
  config.tables.shards = 1
  return scored.made(tmp_path_factory.mktemp('synthetic') / 'run', config)


def test_a_model_of_synthetic_data_takes_rows(synthetic, tmp_path):
  schema = synthetic.run.data.schema
  chance = np.random.default_rng(0)
  rows = 20
  columns = {name: chance.normal(size=rows) for name in schema.dense}
  for column in schema.sparse:
    ids = chance.integers(0, column.rows, (rows, column.hotness))
    columns[column.name] = ids if column.hotness > 1 else ids[:, 0]
  ids = [columns[c.name].reshape(rows, -1) for c in schema.sparse]
  dense = np.stack([columns[name] for name in schema.dense], 1)
  inputs = scored.Inputs(
    np.float32(dense), np.concatenate(ids, 1).astype(np.int32)
  )
  want = synthetic.probabilities(inputs)[:, 0]
  frame = pl.DataFrame(columns)
  frame.write_parquet(tmp_path / 'rows.parquet')
  text = frame.with_columns(
    pl.col(pl.Array).arr.eval(pl.element().cast(pl.String)).arr.join('|')
  )
  text.write_csv(tmp_path / 'rows.csv')
  export = scored.exported(synthetic, tmp_path / 'export')
  for model in (load(synthetic.folder), load(export)):
    check(model.predict(columns), want)
    check(model.predict(tmp_path / 'rows.parquet'), want)
    check(model.predict(tmp_path / 'rows.csv'), want)
    values = model.vectors('C1')['value']
    assert values.to_list() == list(range(50))
    assert model.similar('C1', 7, 3).height == 3


def test_a_row_that_no_table_has(synthetic):
  model = load(synthetic.folder)
  schema = synthetic.run.data.schema
  columns = {name: [0.0] for name in schema.dense}
  columns |= {
    c.name: [[0] * c.hotness] if c.hotness > 1 else [0] for c in schema.sparse
  }
  assert model.predict(columns).shape == (1,)
  with pytest.raises(InputError, match=r'column C1: id out of range: 50'):
    model.predict(columns | {'C1': [50]})
  with pytest.raises(InputError, match=r'C1.*50'):
    model.similar('C1', 50)


def test_ids_that_are_cut_off_a_bag_are_counted(synthetic, tmp_path):
  schema = synthetic.run.data.schema
  columns = {name: [0.0] * 2 for name in schema.dense}
  columns |= {
    c.name: [[0] * c.hotness] * 2 if c.hotness > 1 else [0] * 2
    for c in schema.sparse
  }
  bag = next(c for c in schema.sparse if c.hotness > 1)
  columns[bag.name] = [[0] * bag.hotness, [0] * (bag.hotness + 2)]
  pl.DataFrame(columns).write_parquet(tmp_path / 'rows.parquet')
  export = scored.exported(synthetic, tmp_path / 'export')
  for model in (load(synthetic.folder), load(export)):
    source = source_of(model, [str(tmp_path / 'rows.parquet')])
    (some,) = source.rows()
    assert some.inputs.ids.shape[1] == schema.hotness
    cut = f'1 x bag of {bag.name} cut to its first {bag.hotness} ids'
    assert [note for note in source.notes() if note.startswith(cut)]


LIBSVM = {'format': 'libsvm', 'fields': ['user', 'item']}


def test_a_model_of_libsvm_takes_its_lines_and_its_columns(tmp_path):
  rows = scored.rows_of(0)
  lines = [f'{r["click"]} {r["id"] % 7}:1 {r["id"] % 30}:1' for r in rows]
  data = scored.prepared(tmp_path, LIBSVM, '\n'.join(lines) + '\n')
  config = scored.config_of(data, 'fm')
  run = scored.made(tmp_path / 'run', config)
  blocks = [scored.blocks_of(data, x) for x in ('train', 'validation', 'test')]
  want = np.concatenate([run.probabilities(x) for x in blocks])[:, 0]
  columns = {
    'user': [r['id'] % 7 for r in rows],
    'item': [r['id'] % 30 for r in rows],
  }
  pl.DataFrame(columns).write_csv(tmp_path / 'rows.csv')
  for folder in (run.folder, scored.exported(run, tmp_path / 'export')):
    model = load(folder)
    check(model.predict(tmp_path / 'log.csv'), want)
    check(model.predict(tmp_path / 'rows.csv'), want)
    check(model.predict(columns), want)


def test_rows_that_go_over_lines_keep_their_places(tmp_path, monkeypatch):
  """Numbers of lines are not those of rows."""
  raw = scored.RAW | {'multiline': True}
  rows = scored.rows_of(0)
  for row in rows[::3]:
    row['word'] = '"two\nlines"'
  run = scored.made(
    tmp_path / 'run',
    scored.config_of(scored.prepared(tmp_path, raw, scored.csv_of(rows))),
  )
  blocks = [
    scored.blocks_of(run.data, x) for x in ('train', 'validation', 'test')
  ]
  want = np.concatenate([run.probabilities(x) for x in blocks])[:, 0]
  bad = [3, 9, 10, 399]
  for number in bad:
    rows[number]['price'] = 'dear'
  (tmp_path / 'new.csv').write_text(scored.csv_of(rows))
  flags = f'--data={tmp_path}/new.csv', '--on_bad_row=skip', '--keep=id'
  output = tmp_path / 'scores.parquet'
  assert main([f'--workdir={run.folder}', f'--output={output}', *flags]) == 0
  found = pl.read_parquet(output)
  assert found['id'].cast(pl.Int64).to_list() == list(range(1000, 1400))
  assert found['probability'].is_null().arg_true().to_list() == bad
  good = np.setdiff1d(np.arange(400), bad)
  check(found['probability'].drop_nulls(), want[good])

  monkeypatch.setattr(stream, '_BYTES', 300)
  monkeypatch.setattr(stream, '_BLOCK', 100)
  content = io.BytesIO((tmp_path / 'new.csv').read_bytes())
  monkeypatch.setattr('sys.stdin', io.TextIOWrapper(content))
  flags = '--data=-', *flags[1:]
  assert main([f'--workdir={run.folder}', f'--output={output}', *flags]) == 0
  assert pl.read_parquet(output).equals(found)


def test_standard_input_without_names(tmp_path, monkeypatch):
  """The config of the training has them."""
  rows = scored.rows_of(0)
  header, _, text = scored.csv_of(rows).partition('\n')
  raw = scored.RAW | {'header': header.split(',')}
  data = scored.prepared(tmp_path, raw, text)
  run = scored.made(tmp_path / 'run', scored.config_of(data))
  monkeypatch.setattr(stream, '_BYTES', 1_000)
  monkeypatch.setattr(stream, '_BLOCK', 100)
  content = io.TextIOWrapper(io.BytesIO(text.encode()))
  monkeypatch.setattr('sys.stdin', content)
  flags = f'--workdir={run.folder}', f'--output={tmp_path}/scores.csv'
  assert main([*flags, '--data=-', '--keep=id']) == 0
  found = pl.read_csv(tmp_path / 'scores.csv')
  assert found['id'].to_list() == list(range(1000, 1400))
  model = load(run.folder)
  check(found['probability'], model.predict(tmp_path / 'log.csv'))
  columns = scored.columns_of(rows, model.intake.schema)
  check(found['probability'], model.predict(columns))


@pytest.fixture
def alone(plain, tmp_path):
  """A copy of a run whose prepared set is its own."""
  shutil.copytree(plain.folder.parent, tmp_path / 'copy')
  path = tmp_path / 'copy' / 'run' / 'config.json'
  config = json.loads(path.read_text())
  config['data']['dir'] = str(tmp_path / 'copy' / 'set')
  path.write_text(json.dumps(config))
  return tmp_path / 'copy'


def test_a_run_whose_prepared_set_is_gone(alone, plain):
  shutil.rmtree(alone / 'set')
  model = load(alone / 'run')
  inputs = scored.blocks_of(plain.data, 'train')
  want = plain.probabilities(inputs)[:, 0]
  check(model.score(inputs.dense, inputs.ids), want)
  check(model.predict(plain.data, split='train'), want)
  for use in (
    lambda: model.predict({'price': [1]}),
    lambda: model.vectors('user'),
    lambda: model.predict(plain.folder.parent / 'log.csv'),
  ):
    with pytest.raises(
      InputError, match=f'{alone}/set: .* not there .* put it back'
    ):
      use()


def test_a_run_whose_prepared_set_is_another_one(alone):
  shutil.rmtree(alone / 'set')
  rows = scored.rows_of(1)
  for row in rows:
    row['user'] = 1
  scored.prepared(alone, scored.RAW, scored.csv_of(rows))
  with pytest.raises(InputError, match='user has'):
    _ = load(alone / 'run').intake


def test_the_intake_asks_for_features_alone(plain):
  schema = load(plain.folder).intake.schema
  assert isinstance(schema, RawSchema)
  assert not schema.labels
  assert schema.names == (
    'price', 'age', 'user', 'site', 'word', 'city', 'tags'
  )  # fmt: skip


def test_a_value_without_a_row_has_nothing_similar(synthetic):
  model = load(synthetic.folder)
  feature = model.card.schema.sparse[0]
  for wrong in (None, -5, feature.rows, 10**6):
    with pytest.raises(InputError):
      model.similar(feature.name, wrong)
  assert model.similar(feature.name, feature.rows - 1).height == 10
