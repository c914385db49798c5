"""Files that do not fit, other kinds of files, models that others lack."""

import os
import pickle
import struct
import sys

import numpy as np
import pytest

from dlrm_jax.errors import InputError
from tests.convert import models

torch = pytest.importorskip('torch', reason='PyTorch is not installed')

FB, DLRM, DCN = 'fb_checkpoint.pt', 'torchrec_dlrm_state_dict.pt', 'dcn'
SIZES = {
  'data.expected.rows': (7, 31, 100, 4, 57),
  'data.expected.dense': 13,
}
QUOTIENTS = {
  'tables.encoding': 'quotient_remainder',
  'tables.buckets': (4, 0),
  'tables.threshold': 50,
}


def refused(program, source, fields, folder):
  """The line of a refusal; nothing is left behind."""
  folder.mkdir(exist_ok=True)
  with pytest.raises(InputError) as error:
    models.taken(program, source, fields, folder / 'run')
  assert not list(folder.iterdir())
  line = str(error.value)
  assert '\n' not in line
  return line


@pytest.mark.parametrize(
  ('name', 'fields', 'words'),
  [
    (
      FB,
      {'model.dim': 16},
      ['emb_l.0.weight', '[7, 8]', '[7, 16]', '--config.model.dim=8'],
    ),
    (
      FB,
      {**SIZES, 'data.expected.rows': (7, 31, 100, 4, 58)},
      ['emb_l.4.weight', '[57, 8]', '[58, 8]', 'rows=7,31,100,4,57'],
    ),
    (
      FB,
      {**SIZES, 'data.expected.rows': (7, 31, 100, 4)},
      ['5 tables', '4 sparse features', 'config.data.expected.rows'],
    ),
    (
      FB,
      {**SIZES, 'data.expected.dense': 12},
      ['bot_l.0.weight', '[32, 13]', '[32, 12]', 'data.expected.dense=13'],
    ),
    (
      FB,
      {'model.bottom': (32,)},
      ['bot_l.2.weight', '[16, 32]', '[8, 32]', '--config.model.bottom=32,16'],
    ),
    (
      FB,
      {'model.bottom': (32, 16, 8)},
      ['bot_l.6.weight', 'bot_l.6.bias', '--config.model.bottom=32,16'],
    ),
    (
      FB,
      {'model.top': (24,)},
      ['top_l.2.weight', '[12, 24]', '[1, 24]', '--config.model.top=24,12'],
    ),
    (
      FB,
      {'model.dlrm.interaction': 'cat'},
      ['top_l.0.weight', '[24, 23]', '[24, 48]', 'model.dlrm.interaction'],
    ),
    (
      FB,
      QUOTIENTS,
      ['has no emb_l.2.weight_q', 'has emb_l.2.weight', 'encoding=plain'],
    ),
    (
      DLRM,
      {'model.bottom': (32,), 'model.top': (24, 13)},
      ['over_arch.model.0._mlp.1._linear.weight', '[13, 24]', 'top=24,12'],
    ),
    (
      DCN,
      {'model.dcn.rank': 5},
      ['crossnet.W_kernels.0', '[48, 6]', '[48, 5]', 'model.dcn.rank=6'],
    ),
    (
      DCN,
      {'model.dcn.layers': 4},
      ['has no inter_arch.crossnet.W_kernels.3', 'model.dcn.layers=3'],
    ),
    (
      DCN,
      {'model.dcn.layers': 2},
      ['has inter_arch.crossnet.W_kernels.2', 'model.dcn.layers=3'],
    ),
    (DCN, {'model.name': 'dlrm'}, ['[24, 48]', '--config.model.name=dcn']),
  ],
)
def test_a_file_that_does_not_fit_says_what_would(
  name, fields, words, tmp_path
):
  name = 'torchrec_dcnv2_state_dict.pt' if name == DCN else name
  program, _, fits = models.FILES[name]
  line = refused(program, models.GOLDENS / name, fits | fields, tmp_path)
  for word in words:
    assert word in line, line


def test_tables_of_a_set_are_made_by_prepare(tmp_path):
  rows = {'data.kind': 'synthetic', 'data.synthetic.tables': (7, 31, 99, 4, 57)}
  fields = {**models.FILES[FB][2], **rows, 'data.synthetic.dense': 13}
  fields['data.synthetic.hotness'] = (1,) * 5
  line = refused('fb', models.GOLDENS / FB, fields, tmp_path)
  for word in ('emb_l.2.weight', 'vocabulary of C3', '--max_ind_range'):
    assert word in line, line


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    (
      'fb products of quotients and remainders',
      ['emb_l.1.weight_q', 'quotient_remainder', 'buckets=3,0'],
    ),
    ('fb mixed dimensions', ['emb_l.0.embs.weight', 'mixed_dims']),
  ],
)
def test_tables_that_are_encoded_name_the_encoding(name, words, tmp_path):
  models.made(name, tmp_path / 'source.pt')
  fields = {'model.bottom': (16,)}
  line = refused('fb', tmp_path / 'source.pt', fields, tmp_path / 'to')
  for word in words:
    assert word in line, line


class Program:
  """What a pickle may hold: a call of a function when it is read."""

  def __init__(self, mark):
    self.mark = mark

  def __reduce__(self):
    return os.mkdir, (str(self.mark),)


def content():
  return torch.load(models.GOLDENS / FB, weights_only=True)


def with_first_table(change):
  held = content()
  held['state_dict']['emb_l.0.weight'] = change(
    held['state_dict']['emb_l.0.weight']
  )
  return held


def with_weights_of_ids():
  held = content()
  held['state_dict']['v_W_l.0'] = torch.ones(7)
  return held


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: [torch.ones(2)], ['holds a list', 'dict of tensors']),
    (lambda: {'x': torch.ones(2)}, ['no checkpoint of facebook', 'has x']),
    (dict, ['has no tensors', 'emb_l.0.weight']),
    (lambda: torch.nn.Linear(2, 2), ['holds torch.nn', 'state_dict']),
    (
      lambda: with_first_table(lambda x: x.to(torch.uint8)),
      ['emb_l.0.weight is uint8, quantised', 'float32'],
    ),
    (
      lambda: with_first_table(lambda x: x.double()),
      ['emb_l.0.weight is float64', 'float32'],
    ),
    (with_weights_of_ids, ['has v_W_l.0', 'learned weights of ids']),
  ],
)
def test_a_file_of_something_else_says_what_it_holds(make, words, tmp_path):
  torch.save(make(), tmp_path / 'x.pt')
  fields = models.FILES[FB][2]
  line = refused('fb', tmp_path / 'x.pt', fields, tmp_path / 'to')
  for word in ('x.pt', *words):
    assert word in line, line


def _safetensors():
  header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
  return struct.pack('<Q', len(header)) + header + bytes(4)


def _whole():
  return (models.GOLDENS / FB).read_bytes()


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: b'', ['the file is empty', '.pt']),
    (lambda: b'label,C1,C2\n' * 9, ['no file of PyTorch']),
    (lambda: _whole()[:9000], ['cut', '9,000 bytes', 'copy it again']),
    (lambda: _whole()[:3000] + _whole()[6000:], ['damaged']),
    (lambda: pickle.dumps({'a': 1}), ['pickle', 'no checkpoint of PyTorch']),
    (_safetensors, ['a safetensors file', 'torch.save']),
  ],
)
def test_another_kind_of_file_is_named(make, words, tmp_path):
  (tmp_path / 'x.pt').write_bytes(make())
  fields = models.FILES[FB][2]
  line = refused('fb', tmp_path / 'x.pt', fields, tmp_path / 'to')
  for word in ('x.pt', *words):
    assert word in line, line


def test_an_archive_of_numpy_is_none_of_pytorch(tmp_path):
  np.savez(tmp_path / 'x.npz', a=1)
  fields = models.FILES[FB][2]
  line = refused('fb', tmp_path / 'x.npz', fields, tmp_path / 'to')
  assert 'an archive with' in line


@pytest.mark.parametrize('protocol', [2, 4])
def test_nothing_in_a_file_is_executed(protocol, tmp_path):
  mark = tmp_path / 'executed'
  program = Program(mark)
  torch.save({'state_dict': program}, tmp_path / 'a.pt')
  (tmp_path / 'b.pt').write_bytes(pickle.dumps(program, protocol))
  (tmp_path / 'folder').mkdir()
  metadata = pickle.dumps(program, protocol)
  (tmp_path / 'folder' / '.metadata').write_bytes(metadata)
  fields = models.FILES[FB][2]
  for name in ('a.pt', 'b.pt'):
    line = refused('fb', tmp_path / name, fields, tmp_path / 'to')
    assert 'posix.mkdir' in line or 'no checkpoint' in line, line
  line = refused('torchrec', tmp_path / 'folder', fields, tmp_path / 'to')
  assert '.metadata: damaged' in line
  assert not mark.exists()
  pickle.loads(metadata)  # it is what it seems
  assert mark.exists()


def test_a_folder_of_another_kind(tmp_path):
  (tmp_path / 'folder').mkdir()
  fields = models.FILES[DLRM][2]
  line = refused('torchrec', tmp_path / 'folder', fields, tmp_path / 'to')
  assert 'without .metadata' in line
  line = refused('fb', tmp_path / 'folder', fields, tmp_path / 'to')
  assert 'is a folder; expected a file' in line


def test_a_folder_with_a_damaged_part(tmp_path):
  name = 'torchrec DLRM, a folder'
  models.made(name, tmp_path / 'folder')
  (part,) = (tmp_path / 'folder').glob('*.distcp')
  part.write_bytes(part.read_bytes()[:-5000])
  line = refused(
    'torchrec', tmp_path / 'folder', models.fields_of(name), tmp_path / 'to'
  )
  assert f'{part.name}: damaged' in line


def _without_a_part(metadata):
  name = 'over_arch.model.1.bias'
  (index,) = (x for x in metadata.storage_data if x.fqn.endswith(name))
  del metadata.storage_data[index]
  return name, '[1], is not whole: no part has its numbers from [0]'


def _with_a_shorter_part(metadata):
  name = 'over_arch.model.1.weight'
  (about,) = (
    x for key, x in metadata.state_dict_metadata.items() if key.endswith(name)
  )
  about.size = torch.Size([about.size[0] + 2, about.size[1]])
  return name, 'no part has its numbers from [1, 0]'


@pytest.mark.parametrize('change', [_without_a_part, _with_a_shorter_part])
def test_a_folder_whose_parts_leave_a_gap(change, tmp_path):
  name = 'torchrec DLRM, a folder'
  models.made(name, tmp_path / 'folder')
  path = tmp_path / 'folder' / '.metadata'
  metadata = pickle.loads(path.read_bytes())
  words = change(metadata)
  path.write_bytes(pickle.dumps(metadata))
  line = refused(
    'torchrec', tmp_path / 'folder', models.fields_of(name), tmp_path / 'to'
  )
  for word in words:
    assert word in line, line


@pytest.mark.parametrize(
  ('program', 'name', 'hint'),
  [('fb', DLRM, '--from=torchrec'), ('torchrec', FB, '--from=fb')],
)
def test_a_file_of_the_other_program(program, name, hint, tmp_path):
  assert hint in refused(program, models.GOLDENS / name, {}, tmp_path)


LACKING = [
  ('fb', {'model.name': 'dcn'}, 'model.name is dcn'),
  ('fb', {'model.norm': 'layer'}, 'model.norm is layer'),
  ('fb', {'model.branches': 2}, 'model.branches is 2'),
  ('fb', {'model.dense_scaling': 'standard'}, 'dense_scaling is standard'),
  ('fb', {'tables.pooling': 'mean'}, 'tables.pooling (feature C1) is mean'),
  ('fb', {'tables.placement': 'independent'}, 'placement (feature C1)'),
  ('fb', {'tables.encoding': 'hashed', 'tables.threshold': 9}, 'feature C2'),
  ('fb', {**QUOTIENTS, 'tables.parts': 3, 'tables.buckets': ()}, 'two parts'),
  ('fb', {**QUOTIENTS, 'tables.buckets': (4, 40)}, '(4, 0)'),
  ('fb', {**QUOTIENTS, 'data.expected.hotness': (2,) * 5}, 'multi_hot'),
  ('fb', {**QUOTIENTS, 'tables.combine': 'concat'}, 'tables.threshold'),
  (
    'fb',
    {'tables.features': {'C1': {'table': 'a'}, 'C4': {'table': 'a'}}},
    'C1 and C4 share table a',
  ),
  (
    'fb',
    {'tables.features': {'C2': {**{k[7:]: x for k, x in QUOTIENTS.items()}}}}
    | {'tables.features.C2.threshold': 0},
    'not smaller',
  ),
  ('fb', {'data.expected.dense': 0}, 'no dense features'),
  ('torchrec', QUOTIENTS, 'tables.encoding (feature C3)'),
  ('torchrec', {'model.dlrm.interaction': 'cat'}, 'interaction is cat'),
  ('torchrec', {'model.top': ()}, 'model.top is empty'),
  ('torchrec', {'model.name': 'dcn'}, 'model.dcn.rank is 0'),
  (
    'torchrec',
    {
      'model.name': 'dcn',
      'model.dcn.rank': 2,
      'model.dcn.structure': 'parallel',
    },
    'structure is parallel',
  ),
  ('torchrec', {'model.name': 'deepfm'}, 'model.name is deepfm'),
  (
    'torchrec',
    {'model.compute_dtype': 'int8'},
    'compute_dtype is int8; expected float32 or bfloat16: quantise the trained',
  ),
]


@pytest.mark.parametrize(('program', 'fields', 'word'), LACKING)
def test_a_model_that_a_program_lacks_is_no_model_of_its(program, fields, word):
  network = models.network_of({**SIZES, **fields})
  assert word in models.PROGRAMS[program].misfit(network)


def test_a_model_that_a_program_lacks_is_refused_on_both_ways(tmp_path):
  fields = {**models.FILES[FB][2], 'model.norm': 'layer'}
  line = refused('fb', models.GOLDENS / FB, fields, tmp_path / 'a')
  assert line.startswith('config.model.norm is layer; expected none')
  models.made('fb sums of quotients and remainders', tmp_path / 'qr.pt')
  fields = models.fields_of('fb sums of quotients and remainders')
  models.taken('fb', tmp_path / 'qr.pt', fields, tmp_path / 'run')
  with pytest.raises(InputError, match=r'run: torchrec has no such model: con'):
    models.given('torchrec', tmp_path / 'run', tmp_path / 'out.pt')
  assert not list(tmp_path.glob('out*'))


def test_without_pytorch_a_line_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  line = refused('fb', models.GOLDENS / FB, models.FILES[FB][2], tmp_path)
  assert "pip install 'dlrm_jax[convert]'" in line


def test_tables_of_torchrec_alone_are_named(tmp_path):
  weight = torch.zeros(7, 16, dtype=torch.uint8)
  content = {'ebc.embedding_bags.t_cat_0.weight': weight}
  torch.save(content, tmp_path / 'x.pt')
  line = refused('torchrec', tmp_path / 'x.pt', {}, tmp_path / 'to')
  assert 'these are tables alone, without the layers of a model' in line
