"""What is damaged in the folder of a run is named, with what mends it."""

import pytest

from dlrm_jax.configs import default
from dlrm_jax.errors import InputError
from dlrm_jax.run import workdir
from dlrm_jax.run.workdir import Claim

CONFIG = default.get_config().to_dict()
CLAIM = Claim(config=CONFIG, data={'a': 1}, steps=5, defaults=CONFIG)
DAMAGES = {
  'emptied': b'',
  'cut': b'{"train": {"pat',
  'garbage': b'\xff\xfe\x00',
  'a list': b'[1]',
  'a text': b'"text"',
}


@pytest.fixture
def folder(tmp_path):
  with workdir.claimed(tmp_path, CLAIM):
    pass
  return tmp_path


def claim(folder):
  with workdir.claimed(folder, CLAIM):
    pass


def read(folder):
  workdir.read_settings(folder, CONFIG)


@pytest.mark.parametrize('use', [claim, read])
@pytest.mark.parametrize('name', ['config.json', 'data.json'])
@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize('trained', [False, True])
def test_a_damaged_description_is_named(folder, use, name, damage, trained):
  if trained:
    (folder / 'checkpoints' / '5').mkdir(parents=True)
  (folder / name).write_bytes(damage)
  mend = 'put back a copy' if trained else 'remove config.json and data.json'
  with pytest.raises(InputError, match=f'{name}: damaged: .*{mend}') as raised:
    use(folder)
  assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize('use', [claim, read])
def test_lost_data_json_is_named(folder, use):
  (folder / 'checkpoints' / '5').mkdir(parents=True)
  (folder / 'data.json').unlink()
  with pytest.raises(InputError, match=r'data\.json is missing; put back'):
    use(folder)


def test_what_is_no_workdir_is_called_so(tmp_path):
  with pytest.raises(InputError, match='is not the workdir of a run: no conf'):
    read(tmp_path)


@pytest.mark.parametrize('name', ['config.json', 'data.json'])
def test_what_can_not_be_read_is_not_called_damaged(folder, name):
  (folder / name).unlink()
  (folder / name).mkdir()
  with pytest.raises(InputError, match=f'{name}: cannot be read: Is a dir'):
    read(folder)
