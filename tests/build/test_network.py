"""The network of a config alone scores as that of the task that trains it."""

import jax
import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.build.network import build_network
from dlrm_jax.build.task import build_task
from dlrm_jax.configs import synthetic
from dlrm_jax.synthetic.log import Synthetic
from dlrm_jax.training.state import create_state


def test_a_network_is_built_without_optimizers_and_scores_the_same():
  config, log = synthetic.get_config(), Synthetic(train=100)
  block = log.source('train')[0]
  task = build_task(config, log.schema, log.scale)
  network = build_network(config, log.schema, log.scale)
  state = create_state(task, jax.random.key(0))
  inputs = Inputs(block.dense, block.ids)
  want = task.network.outputs(state.layers, state.tables, inputs)
  tables = network.collection.init(jax.random.split(jax.random.key(0))[0])
  np.testing.assert_allclose(
    network.outputs(state.layers, tables, inputs), want, rtol=1e-6
  )
