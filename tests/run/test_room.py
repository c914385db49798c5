"""Runs that can't fit are refused before anything is allocated."""

import types

import jax
import pytest

from dlrm_jax import sharding
from dlrm_jax.build.data import open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.errors import InputError
from dlrm_jax.run import loop, room
from dlrm_jax.training.state import abstract_state
from dlrm_jax.training.step import compiled_step
from tests import small


def run_of(tmp_path, **fields):
  config = small.get_config()
  config.tables.shards = 1
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return build_run(config, open_data(config), tmp_path)


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
  'lower config.data.window': {
    'data__synthetic__train': 2**31 - 1,
    'data__window': 2**20,
  },
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


FITS = {
  'plain': {},
  'bfloat16': {'model__compute_dtype': 'bfloat16', 'model__top': (512,)},
  'wide vectors': {'model__dim': 64, 'model__dlrm__interaction': 'cat'},
  'wide layers': {'model__bottom': (512, 64), 'train__micro_batch': 64},
  'a hash': {'tables__encoding': 'hashed'},
  'remainders': {'tables__encoding': 'quotient_remainder'},
  'tensor trains': {'tables__encoding': 'tensor_train', 'model__dim': 8},
  'robe': {'tables__encoding': 'robe'},
  'narrow rows': {'tables__encoding': 'mixed_dims', 'model__dim': 32},
  'eight devices': {'tables__shards': 8},
  'SGD': {'optimizer__name': 'sgd', 'table_optimizer__name': 'sgd'},
}


@pytest.mark.slow
@pytest.mark.parametrize('what', FITS)
def test_no_more_is_asked_for_than_compiled_steps_hold(tmp_path, what):
  """Arguments and temporary memory, of a step and of an evaluation."""
  fields = {
    'train__batch_size': 2048,
    'train__eval_batch_size': 2048,
    'optimizer__name': 'adagrad',
  }
  run = run_of(tmp_path, **(fields | FITS[what]))
  with sharding.use(loop.choose_mesh(run)):
    need = room.needs(run)
    state = abstract_state(run.task)
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding.sharding_of(sharding.SPLIT)
      ),
      next(loop.batches_from(run, run.data.source('train'), 0)),
    )
    step = compiled_step(run.task).lower(state, batch).compile()
    score = jax.jit(run.task.network.outputs)
    scored = score.lower(state.layers, state.tables, batch.inputs).compile()
  held = [
    x.argument_size_in_bytes + x.temp_size_in_bytes
    for x in (step.memory_analysis(), scored.memory_analysis())
  ]
  assert need.tables + need.layers + need.step <= held[0]
  # Scoring takes no state of optimizers, which is there all the same.
  params, tables = room.held(state.params), room.held(state.tables)
  assert params + tables + need.evaluation <= held[1]


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
