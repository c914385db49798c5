"""An export predicts what its workdir predicts, on any number of devices."""

import json

import jax
import numpy as np
import polars as pl
import pytest

import dlrm_jax
from dlrm_jax.batch import Inputs
from dlrm_jax.errors import InputError
from dlrm_jax.export.__main__ import main
from dlrm_jax.prepare.implicit.implicit_set import prepare_implicit
from dlrm_jax.scoring.load import load
from tests import commands, scored


@pytest.fixture(scope='module', params=['one_hot', 'bags'])
def two_labels_set(request, tmp_path_factory):
  """A prepared set of two labels, with a bag or without."""
  raw = dict(scored.TWO_LABELS)
  if request.param == 'one_hot':
    del raw['bags']
  folder = tmp_path_factory.mktemp(request.param)
  text = scored.csv_of(scored.rows_of(0))
  return scored.prepared(folder, raw, text)


def check(run, folder, split='train'):
  """Checks that workdir and export say what the network says."""
  inputs = scored.blocks_of(run.data, split)
  want = run.probabilities(inputs)
  rows = scored.rows_of(0, len(want))
  for path in (run.folder, scored.exported(run, folder)):
    model = load(path)
    got = model.score(inputs.dense, inputs.ids).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    columns = scored.columns_of(rows, model.intake.schema)
    got = model.predict(columns).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  assert np.std(want, 0).min() > 1e-3
  return model


ENCODINGS = {
  'plain': {},
  'hashed': {'tables__encoding': 'hashed'},
  'quotient_remainder': {'tables__encoding': 'quotient_remainder'},
}


@pytest.mark.slow
@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('name', ['dlrm', 'dcn', 'mmoe', 'esmm'])
def test_models_and_encodings(two_labels_set, tmp_path, name, encoding):
  fields = ENCODINGS[encoding]
  config = scored.config_of(two_labels_set, name, **fields)
  check(scored.made(tmp_path / 'run', config), tmp_path / 'export')


@pytest.mark.slow
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_a_model_of_users_and_items(tmp_path, encoding):
  rows = [(u, i, 5, u + i) for u in range(130) for i in range(u % 7 + 1)]
  text = ''.join('\t'.join(map(str, row)) + '\n' for row in rows)
  (tmp_path / 'log').write_text(text)
  data = tmp_path / 'set'
  prepare_implicit(
    [str(tmp_path / 'log')],
    str(data),
    hold_out=False,
    seed=0,
    on_bad_row='stop',
    overwrite=False,
  )
  config = scored.config_of(data, 'neumf', **ENCODINGS[encoding])
  run = scored.made(tmp_path / 'run', config)
  model = load(scored.exported(run, tmp_path / 'export'))
  users, items = zip(*[(u, i) for u, i, _, _ in rows], strict=True)
  pairs = {'user': list(users), 'item': list(items)}
  ids = model.intake.inputs(pl.DataFrame(pairs)).ids
  want = run.probabilities(Inputs(np.zeros((len(ids), 0), np.float32), ids))
  for found in (
    model.predict(pairs),
    load(run.folder).predict(pairs),
    model.predict(tmp_path / 'log'),
  ):
    np.testing.assert_allclose(found, want[:, 0], rtol=0, atol=1e-6)
  assert len({tuple(x) for x in ids.tolist()}) == len(rows)


def test_quotients_and_bags(plain, tmp_path):
  config = scored.config_of(
    plain.data, 'dcn', tables__encoding='quotient_remainder'
  )
  check(scored.made(tmp_path / 'run', config), tmp_path / 'export')


@pytest.mark.slow
@pytest.mark.parametrize(
  'fields',
  [
    {'model__branches': 2},
    {'model__norm': 'batch'},
    {'model__norm': 'layer', 'model__dense_scaling': 'standard'},
    {'model__compute_dtype': 'bfloat16'},
    {'tables__pooling': 'mean'},
    {'tables__encoding': 'tensor_train'},
    {'tables__encoding': 'robe'},
    {'tables__encoding': 'mixed_dims'},
    {'tables__encoding': 'quotient_remainder', 'tables__combine': 'path'},
  ],
  ids=str,
)
def test_other_models(plain, tmp_path, fields):
  config = scored.config_of(plain.data, **fields)
  run = scored.made(tmp_path / 'run', config)
  if 'model__compute_dtype' not in fields:
    check(run, tmp_path / 'export')
    return
  inputs = scored.blocks_of(run.data, 'train')
  model = load(scored.exported(run, tmp_path / 'export'))
  want = run.probabilities(inputs)[:, 0]
  found = model.score(inputs.dense, inputs.ids)
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-2)


MIXED = {
  'user': {'placement': 'row_wise'},
  'site': {'placement': 'column_wise', 'columns': 2},
  'word': {'placement': 'replicated'},
  'city': {'placement': 'grid', 'columns': 2, 'spread': 4},
  'tags': {'placement': 'table_row_wise', 'spread': 2},
}


def of_eight(data, folder, placement):
  """A run on eight devices."""
  config = scored.config_of(data, tables__shards=8)
  if placement == 'mixed':
    with config.unlocked():
      config.tables.features.update(MIXED)
  else:
    config.tables.placement = placement
  return scored.made(folder, config, devices=8)


@pytest.mark.slow
@pytest.mark.parametrize('placement', ['mixed', 'independent', 'table_wise'])
def test_placements_on_eight_devices(plain, tmp_path, placement):
  """On one device the program runs, on eight the network is built again."""
  run = of_eight(plain.data, tmp_path / 'run', placement)
  model = check(run, tmp_path / 'export')
  assert model.scorer._mesh.size == 8
  on_one(run, tmp_path / 'export')


SCORE = """
import json, sys
import jax, numpy as np
import dlrm_jax
assert len(jax.devices()) == 1
given = np.load(sys.argv[2])
model = dlrm_jax.load(sys.argv[1])
np.save(sys.argv[3], model.score(given['dense'], given['ids']))
print(json.dumps(model.vectors('user')['vector'].to_list()))
"""


def on_one(run, export):
  """Checks the predictions of an export in a process with one device."""
  inputs = scored.blocks_of(run.data, 'train')
  folder = export.parent
  np.savez(folder / 'inputs.npz', dense=inputs.dense, ids=inputs.ids)
  done = commands.run(
    ['-c', SCORE, export, folder / 'inputs.npz', folder / 'scores.npy'],
    environment=commands.devices(1),
  )
  found = np.load(folder / 'scores.npy')
  want = run.probabilities(inputs)[:, 0]
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  vectors = np.float32(json.loads(done.stdout.splitlines()[-1]))
  here = load(run.folder).vectors('user')['vector'].to_numpy()
  np.testing.assert_array_equal(vectors, here)


@pytest.mark.slow
def test_trained_on_eight_devices_and_used_on_one(plain, tmp_path):
  config = scored.config_of(
    *(plain.data,),
    tables__placement='auto',
    tables__shards=8,
    train__steps=4,
    train__eval_batch_size=64,
  )
  dlrm_jax.train(config, tmp_path / 'run')
  model = load(tmp_path / 'run')
  assert model.scorer._mesh.size == 8
  inputs = scored.blocks_of(plain.data, 'train')
  want = model.score(inputs.dense, inputs.ids)
  assert want.std() > 1e-4
  main([f'--workdir={tmp_path}/run', f'--output={tmp_path}/export'])
  found = load(tmp_path / 'export').score(inputs.dense, inputs.ids)
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  np.savez(tmp_path / 'inputs.npz', dense=inputs.dense, ids=inputs.ids)
  commands.run(
    ['-c', SCORE, tmp_path / 'export', tmp_path / 'inputs.npz',
     tmp_path / 'scores.npy'],
    environment=commands.devices(1),
  )  # fmt: skip
  found = np.load(tmp_path / 'scores.npy')
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_state_of_eight_devices_is_exported_for_one(plain, tmp_path):
  run = of_eight(plain.data, tmp_path / 'run', 'auto')
  with run.on_devices():
    parts = {
      len(x.sharding.device_set) for x in jax.tree.leaves(run.state.tables)
    }
  assert parts == {8}
  export = scored.exported(run, tmp_path / 'export')
  on_one(run, export)
  inputs = scored.blocks_of(run.data, 'train')
  model = load(export)
  assert model.scorer._mesh.size == 8
  want = run.probabilities(inputs)[:, 0]
  found = model.score(inputs.dense, inputs.ids)
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_the_command(plain, tmp_path, capsys):
  output = tmp_path / 'new'
  assert main([f'--workdir={plain.folder}', f'--output={output}']) == 0
  said = capsys.readouterr().out
  assert f'checkpoint of step {scored.STEP}' in said
  assert f'dlrm_jax.load({str(output)!r})' in said
  assert repr(dlrm_jax.load(output)).endswith('step 7: click>')


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--output={copy}'], ['{copy}', 'is there already']),
    (['--output={copy}/model.json/x'], ['model.json/x', 'cannot be made']),
    (['--output={new}', '--checkpoint=9'], ['no checkpoint of step 9', '7']),
    (['--output={new}', '--checkpoint=last'], ["checkpoint 'last'", 'latest']),
  ],
)
def test_mistakes_of_the_command(copy, plain, tmp_path, capsys, flags, words):
  new = tmp_path / 'new'
  filled = [flag.format(copy=copy, new=new) for flag in flags]
  assert main([f'--workdir={plain.folder}', *filled]) == 1
  (said,) = capsys.readouterr().err.splitlines()
  for word in words:
    assert word.format(copy=copy) in said
  assert not list(tmp_path.glob('new*'))


def test_an_export_of_what_is_no_workdir(export, tmp_path, capsys):
  for folder in (export, tmp_path, tmp_path / 'absent'):
    assert main([f'--workdir={folder}', f'--output={tmp_path}/new']) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert str(folder) in said
    assert 'workdir' in said


def test_what_a_killed_export_left_is_removed(plain, tmp_path):
  left = tmp_path / 'new.0123456789ab'
  left.mkdir()
  (left / 'model.json').write_text('{}')
  others = 'newer.0123456789ab', 'new.0123456789', 'new.0123456789abc'
  for name in others:
    (tmp_path / name).write_text('of somebody else')
  scored.exported(plain, tmp_path / 'new')
  assert {path.name for path in tmp_path.iterdir()} == {'new', *others}


@pytest.mark.parametrize(
  'name', ['dlrm_jax.export.write.serialized', 'dlrm_jax.files.allocate']
)
def test_an_export_that_fails_leaves_nothing(
  plain, tmp_path, monkeypatch, name
):
  def failing(*arguments, **options):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(name, failing)
  with pytest.raises(InputError, match='new: cannot be written: No space'):
    scored.exported(plain, tmp_path / 'new')
  assert not list(tmp_path.iterdir())
