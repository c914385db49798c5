"""Names, dtypes and scalars that files of the programs have in practice."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dlrm_jax.convert import torch_files
from dlrm_jax.convert.facebook_models import flags_of
from tests.convert import models

torch = pytest.importorskip('torch', reason='PyTorch is not installed')

FB = 'fb_saved_sgd.pt'
DCN = 'torchrec_dcnv2_state_dict.pt'


def held(name):
  return torch_files.read_file(models.GOLDENS / name)


def params_of(folder):
  task, state = models.opened(folder)
  tables = {
    t.name: np.asarray(task.collection.read(state.tables, t.name))
    for t in task.collection.tables
  }
  return tables, state.params


def same(a, b):
  import jax

  jax.tree.map(np.testing.assert_array_equal, params_of(a), params_of(b))


def taken(name, content, tmp_path):
  """Workdirs of a golden file, and of other content."""
  program, _, fields = models.FILES[name]
  torch.save(content, tmp_path / 'x.pt')
  models.taken(program, models.GOLDENS / name, fields, tmp_path / 'a')
  lines = models.taken(program, tmp_path / 'x.pt', fields, tmp_path / 'b')
  return tmp_path / 'a', tmp_path / 'b', lines


def test_names_of_distributed_data_parallel_are_the_same_model(tmp_path):
  content = held(FB)
  content['state_dict'] = {
    name.replace('bot_l.', 'bot_l.module.').replace(
      'top_l.', 'top_l.module.'
    ): x
    for name, x in content['state_dict'].items()
  }
  same(*taken(FB, content, tmp_path)[:2])


@pytest.mark.parametrize('prefix', ['model.', 'module.model.', 'x.model.'])
def test_what_wraps_a_model_of_torchrec_is_left_out(prefix, tmp_path):
  content = {f'{prefix}{name}': x for name, x in held(DCN).items()}
  same(*taken(DCN, content, tmp_path)[:2])


def test_a_state_dict_may_lie_in_a_checkpoint(tmp_path):
  content = {'epoch': 3, 'model': dict(held(DCN)), 'note': 'of Monday'}
  content['steps'] = torch.tensor(7)
  same(*taken(DCN, content, tmp_path)[:2])


def test_tables_are_in_the_order_of_their_numbers(tmp_path):
  content = dict(reversed(held(DCN).items()))
  same(*taken(DCN, content, tmp_path)[:2])


def test_tables_without_numbers_are_in_the_order_of_the_file(tmp_path):
  content = {}
  for name, x in held(DCN).items():
    for number, word in enumerate(('user', 'item', 'shop', 'day', 'site')):
      name = name.replace(f't_cat_{number}.', f'{word}.')
    content[name] = x
  assert any('bags.shop.weight' in name for name in content)
  same(*taken(DCN, content, tmp_path)[:2])


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_narrow_numbers_are_widened(dtype, tmp_path):
  narrow = getattr(torch, dtype)
  content = {name: x.to(narrow) for name, x in held(DCN).items()}
  *_, folder, lines = taken(DCN, content, tmp_path)
  assert f'tensors in {dtype} are float32 from now on' in lines
  tables, _ = params_of(folder)
  wanted = next(iter(content.values())).float().numpy()
  np.testing.assert_array_equal(tables['C1'], wanted)


def test_files_of_before_pytorch_1_6_are_read(tmp_path):
  program, _, fields = models.FILES[FB]
  path = tmp_path / 'old.pt'
  content = {'state_dict': held(FB)['state_dict']}
  torch.save(content, path, _use_new_zipfile_serialization=False)
  models.taken(program, path, fields, tmp_path / 'b')
  models.taken(program, models.GOLDENS / FB, fields, tmp_path / 'a')
  same(tmp_path / 'a', tmp_path / 'b')


def renamed(path, old, new):
  """The bytes of a file in whose pickle a name is another one."""
  made = io.BytesIO()
  with zipfile.ZipFile(path) as there, zipfile.ZipFile(made, 'w') as here:
    for name in there.namelist():
      data = there.read(name)
      if name.endswith('data.pkl'):
        assert old in data
        data = data.replace(old, new)
      here.writestr(name, data)
  return made.getvalue()


def test_scalars_of_numpy_1_are_read(tmp_path):
  path = tmp_path / 'x.pt'
  old, new = b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n'
  path.write_bytes(renamed(models.GOLDENS / FB, old, new))
  there, here = held(FB), torch_files.read_file(path)
  assert type(here['test_acc']) is np.float64
  assert here['test_acc'] == there['test_acc']
  assert type(here['train_loss']) is np.float32
  assert here['train_loss'] == there['train_loss']


def test_a_file_is_mapped_and_not_read():
  tensor = held(FB)['state_dict']['emb_l.2.weight']
  start = tensor.untyped_storage().data_ptr()
  maps = Path('/proc/self/maps').read_text().splitlines()
  ranges = {
    tuple(int(x, 16) for x in line.split()[0].split('-')): line
    for line in maps
    if FB in line
  }
  assert any(low <= start < high for low, high in ranges)


def test_flags_of_the_program_follow_from_the_model():
  fields = models.fields_of('fb products of quotients and remainders')
  assert flags_of(models.network_of(fields)) == (
    '--arch-embedding-size=7-31-100-4-57 --arch-sparse-feature-size=8 '
    '--arch-mlp-bot=13-16-8 --arch-mlp-top=24-12-1 --qr-flag '
    '--qr-operation=mult --qr-collisions=3 --qr-threshold=7'
  )
  fields = models.fields_of('fb dot with itself')
  assert '--arch-interaction-itself' in flags_of(models.network_of(fields))


def test_a_temperature_gives_the_widths_of_mixed_dimensions():
  fields = models.fields_of('fb mixed dimensions') | {
    'data.expected.rows': (10, 60, 5000),
    'data.expected.hotness': (),
    'tables.alpha': 0.4,
  }
  network = models.network_of(fields)
  widths = [f.encoding.tables[0].dim for f in network.collection.features]
  said = flags_of(network)
  temperature = float(said.partition('--md-temperature=')[2])
  assert len({*widths}) == 3
  rows = np.array([10, 60, 5000])
  by_law = np.maximum(8 * (10 / rows) ** temperature, 1)
  assert np.round(by_law).astype(int).tolist() == widths
  network = models.network_of(models.fields_of('fb mixed dimensions'))
  assert 'm_spa=[8, 4, 2, 8, 2]' in flags_of(network)
