"""Exports that are opened: of other versions, moved, cut and changed."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.export.__main__ import main
from dlrm_jax.scoring import export_folder
from dlrm_jax.scoring.load import load
from tests import scored


def rewrite(folder, name, content):
  """Replaces a file of an export, whose digest fits afterwards."""
  (folder / name).write_bytes(content)
  about = json.loads((folder / export_folder.MODEL).read_text())
  about['files'][name] = export_folder.file_entry(folder / name)
  (folder / export_folder.MODEL).write_text(json.dumps(about))


def program_with(folder, **fields):
  """The program of an export with other fields of `jax.export.Exported`."""
  content = bytearray((folder / export_folder.NETWORK).read_bytes())
  program = jax.export.deserialize(content)
  return bytes(dataclasses.replace(program, **fields).serialize())


@pytest.mark.parametrize('kind', ['envelope', 'operations', 'platform'])
def test_a_program_of_another_version_is_replaced_by_the_network(
  copy, plain, kind
):
  inputs = scored.blocks_of(plain.data, 'train')
  want = plain.probabilities(inputs)[:, 0]
  rewrite(
    copy,
    export_folder.NETWORK,
    {
      'envelope': lambda: bytes(4000),
      'operations': lambda: program_with(copy, mlir_module_serialized=b'new'),
      'platform': lambda: program_with(copy, platforms=('tpu',)),
    }[kind](),
  )
  model = load(copy)
  for _ in range(2):
    found = model.score(inputs.dense, inputs.ids)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_rows_at_other_places_are_moved(copy, plain):
  """As an export has them whose version lays tables out in another way."""
  about = json.loads((copy / export_folder.MODEL).read_text())
  for name, entry in about['tables'].items():
    table = np.load(copy / entry['file'])
    rows = np.roll(table.reshape(-1, 4), 100, 0)
    np.save(copy / entry['file'], rows.reshape(table.shape))
    about['files'][entry['file']] = export_folder.file_entry(
      copy / entry['file']
    )
    for blocks in about['layout']['blocks'].values():
      for block in blocks:
        block['offset'] += 100 * (block['stack'] == name)
  (copy / export_folder.MODEL).write_text(json.dumps(about))
  rewrite(copy, export_folder.NETWORK, bytes(4000))  # its addresses are others
  inputs = scored.blocks_of(plain.data, 'train')
  model = load(copy)
  found = model.score(inputs.dense, inputs.ids)
  want = plain.probabilities(inputs)[:, 0]
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  same = load(plain.folder).vectors('word')
  assert model.vectors('word').equals(same)


def test_the_folder_needs_neither_workdir_nor_data(
  tmp_path_factory, tmp_path, plain
):
  """All is removed but the export."""
  folder = tmp_path / 'gone'
  shutil.copytree(plain.folder.parent, folder)
  config = json.loads((folder / 'run' / 'config.json').read_text())
  config['data']['dir'] = str(folder / 'set')
  (folder / 'run' / 'config.json').write_text(json.dumps(config))
  export = tmp_path / 'export'
  assert main([f'--workdir={folder}/run', f'--output={export}']) == 0
  before = load(folder / 'run')
  rows = scored.columns_of(scored.rows_of(0), before.intake.schema)
  want = before.predict(rows)
  shutil.rmtree(folder)
  np.testing.assert_array_equal(before.predict(rows), want)
  after = load(export)
  np.testing.assert_allclose(after.predict(rows), want, rtol=0, atol=1e-6)
  assert after.vectors('word')['value'].null_count() == 2
  moved = export.rename(tmp_path / 'elsewhere')
  np.testing.assert_allclose(load(moved).predict(rows), want, rtol=0, atol=1e-6)


def test_an_opened_model_whose_folder_is_removed(copy, plain):
  """Its tables are mapped; its vocabularies are not held."""
  model, inputs = load(copy), scored.blocks_of(plain.data, 'train')
  rows = scored.columns_of(scored.rows_of(0), model.intake.schema)
  want = model.score(inputs.dense, inputs.ids)
  shutil.rmtree(copy)
  found = model.score(inputs.dense, inputs.ids)
  np.testing.assert_array_equal(found, want)
  for use in (lambda: model.predict(rows), lambda: model.vectors('word')):
    with pytest.raises(InputError, match=r'copy/.*: gone .* load the model'):
      use()


def test_the_description_has_what_a_reader_needs(export, plain):
  about = json.loads((export / export_folder.MODEL).read_text())
  assert about['format'] == export_folder.FORMAT
  assert about['labels'] == ['click']
  assert about['inputs']['dense'] == ['price', 'age']
  assert [x['name'] for x in about['inputs']['ids']] == [
    'user', 'site', 'word', 'city', 'tags'
  ]  # fmt: skip
  assert about['run']['step'] == scored.STEP
  assert about['run']['metrics'] == {'auc': 0.7}
  found = {p.relative_to(export).as_posix() for p in export.rglob('*.*')}
  assert found == {*about['files'], export_folder.MODEL}
  collection = plain.run.task.collection
  for name, place in about['rows'].items():
    array = np.load(export / about['tables'][place['stack']]['file'])
    rows = array.reshape(-1, place['width'])[place['first_row'] :]
    want = collection.read(plain.state.tables, name)[: place['rows']]
    np.testing.assert_array_equal(rows[: place['rows']], want)


def cut(path):
  path.write_bytes(path.read_bytes()[:-9])


def flip(path):
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)


def newer(path):
  about = json.loads(path.read_text())
  about['format'], about['made_by']['dlrm_jax'] = 2, '9.1'
  path.write_text(json.dumps(about))


def without(name):
  def change(path):
    about = json.loads(path.read_text())
    del about[name]
    path.write_text(json.dumps(about))

  return change


def with_field(name, value):
  """Sets a field of a description."""

  def change(path):
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {name: value}))

  return change


DAMAGE = {
  'a cut description': (export_folder.MODEL, cut, ['model.json', 'no JSON']),
  'an empty description': (
    export_folder.MODEL,
    lambda p: p.write_bytes(b''),
    ['JSON'],
  ),
  'another description': (
    export_folder.MODEL,
    lambda p: p.write_text('[1, 2]'),
    ['model.json', 'no format'],
  ),
  'a newer format': (
    export_folder.MODEL,
    newer,
    ['format 2', 'format 1', '9.1'],
  ),
  'files of another type': (
    export_folder.MODEL,
    with_field('files', {'network.stablehlo': 3}),
    ['model.json', 'damaged'],
  ),
  'a run of another type': (
    export_folder.MODEL,
    with_field('run', {'step': 1}),
    ['model.json', 'damaged'],
  ),
  'tables of another type': (
    export_folder.MODEL,
    with_field('tables', {'rows_4': 3}),
    ['model.json', 'damaged'],
  ),
  'another label': (
    export_folder.MODEL,
    with_field('labels', ['click', 'buy']),
    ['model.json', 'labels'],
  ),
  'a description without run': (
    export_folder.MODEL,
    without('run'),
    ['no run'],
  ),
  'a description without files': (
    export_folder.MODEL,
    without('files'),
    ['no files'],
  ),
  'a cut table': ('tables/rows_4.npy', cut, ['rows_4.npy', 'bytes', 'again']),
  'a changed table': ('tables/rows_4.npy', flip, ['rows_4.npy', 'not as it']),
  'no table': ('tables/rows_4.npy', lambda p: p.unlink(), ['missing']),
  'cut parameters': (export_folder.PARAMETERS, cut, ['parameters', 'bytes']),
  'changed parameters': (
    export_folder.PARAMETERS,
    flip,
    ['parameters', 'not as it'],
  ),
  'no parameters': (
    export_folder.PARAMETERS,
    lambda p: p.unlink(),
    ['missing'],
  ),
  'no program': (
    export_folder.NETWORK,
    lambda p: p.unlink(),
    ['network', 'missing'],
  ),
  'a folder for a table': (
    'tables/rows_4.npy',
    lambda p: (p.unlink(), p.mkdir()),
    ['rows_4.npy', 'missing'],
  ),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_damage_is_one_line(copy, name):
  file, change, words = DAMAGE[name]
  change(copy / file)
  with pytest.raises(InputError) as caught:
    load(copy)
  assert '\n' not in str(caught.value)
  assert str(copy) in str(caught.value)
  for word in words:
    assert word in str(caught.value)


def test_a_large_file_is_checked_when_it_is_opened(copy, monkeypatch):
  """Such files have no digest."""
  monkeypatch.setattr(export_folder, '_DIGESTED', 10)
  for name, content in (
    (export_folder.PARAMETERS, b'no tensors at all'),
    ('tables/rows_4.npy', b'no array at all'),
  ):
    old = (copy / name).read_bytes()
    rewrite(copy, name, content)
    with pytest.raises(InputError, match=f'{name}: damaged .*again'):
      load(copy)
    rewrite(copy, name, old)
  load(copy)
