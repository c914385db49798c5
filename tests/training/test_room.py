"""Runs that can't fit are refused before anything is allocated."""

import types

import pytest

from dlrm_jax import build, sharding
from dlrm_jax.errors import InputError
from dlrm_jax.training import loop, room
from tests import small


def run_of(tmp_path, **fields):
  config = small.get_config()
  config.tables.shards = 1
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return build.build_run(config, build.open_data(config), tmp_path)


def check(run):
  with sharding.use(loop.choose_mesh(run)):
    room.check_room(run)


LARGE = {
  'lower config.train.batch_size': {
    'data__synthetic__train': 2**31,
    'train__batch_size': 2**30,
  },
  'lower config.train.eval_batch_size': {'train__eval_batch_size': 2**30},
  'lower config.model.bottom, config.model.top': {'model__top': (10**9, 10**9)},
  'choose another config.tables.encoding': {
    'data__synthetic__tables': (2 * 10**9, 40, 30, 30),
    'model__dim': 2**11,
  },
}


@pytest.mark.parametrize('fix', LARGE)
def test_what_can_not_fit_is_refused_with_its_size_and_a_fix(tmp_path, fix):
  with pytest.raises(
    InputError, match=r'it takes [\d.e+]+ TB|GB of memory'
  ) as e:
    check(run_of(tmp_path, **LARGE[fix]))
  assert fix in str(e.value)
  assert 'there are' in str(e.value)
  assert '\n' not in str(e.value)


def test_what_fits_is_let_through_and_more_is_not(tmp_path, monkeypatch):
  run = run_of(tmp_path)
  with sharding.use(loop.choose_mesh(run)):
    need = room.needs(run)
  enough = need.device + need.host
  monkeypatch.setattr(room, 'free_memory', lambda: enough)
  check(run)
  monkeypatch.setattr(room, 'free_memory', lambda: enough // 2)
  with pytest.raises(InputError, match='it takes'):
    check(run)


def test_all_devices_of_a_cpu_share_its_memory(tmp_path):
  one, eight = (run_of(tmp_path, tables__shards=n) for n in (1, 8))
  with sharding.use(loop.choose_mesh(one)):
    whole = room.needs(one)
  with sharding.use(loop.choose_mesh(eight)):
    part = room.needs(eight)
  assert part.step == whole.step // 8
  assert part.layers == whole.layers


def test_a_device_that_says_its_room_is_asked(tmp_path, monkeypatch):
  device = types.SimpleNamespace(memory_stats=lambda: {'bytes_limit': 1000})
  monkeypatch.setattr(room, 'on_cpu', lambda: False)
  monkeypatch.setattr(room.jax, 'local_devices', lambda: [device])
  with pytest.raises(InputError, match=r'of memory of a device .* 1 kB'):
    check(run_of(tmp_path))


def test_an_evaluation_that_can_not_fit_is_refused(tmp_path):
  task = run_of(tmp_path).task
  room.check_evaluation_room(task, 4096)
  with pytest.raises(InputError, match='of evaluate: --batch_size'):
    room.check_evaluation_room(task, 2 * 10**9)
