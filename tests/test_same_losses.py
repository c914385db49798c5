"""Real ids, any number of devices: the same losses."""

import itertools
import pathlib

import jax
import numpy as np
import pytest

from configs import criteo_kaggle
from dlrm_jax import sharding
from dlrm_jax.build.data import open_data
from dlrm_jax.build.run import build_run
from dlrm_jax.data.loader import training_batches
from dlrm_jax.prepare import __main__ as prepare
from dlrm_jax.training.state import new_state
from dlrm_jax.training.step import compiled_step

STEPS = 50
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def run(real_data, tmp_path_factory):
  folder = tmp_path_factory.mktemp('sample')
  sample = real_data / 'criteo_kaggle_sample' / 'train.txt'
  with sample.open() as lines, (folder / 'part.txt').open('w') as part:
    part.writelines(itertools.islice(lines, 12_000))
  prepare.main(
    ['criteo', f'--input={folder / "part.txt"}', f'--output={folder / "set"}']
  )
  config = criteo_kaggle.get_config()
  config.data.dir = str(folder / 'set')
  config.model.bottom = config.model.top = (32,)
  data = open_data(config)
  return build_run(config, data, pathlib.Path('unused'))


def losses(run, devices):
  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    state, step = (
      new_state(run.task, jax.random.key(0)),
      compiled_step(run.task),
    )
    batches = training_batches(run.data.source('train'), run.reading)
    found = []
    for batch in itertools.islice(batches, STEPS):
      state, told = step(state, sharding.send(batch))
      found.append(float(told.loss))
  return np.array(found)


def test_losses_do_not_depend_on_the_number_of_devices(run):
  alone = losses(run, 1)
  assert alone[-10:].mean() < alone[0]
  for devices in (2, 4, 8):
    np.testing.assert_allclose(losses(run, devices), alone, rtol=1e-5)
