"""Every model of the family keeps the promises that the trainer makes.

Losses, layers and tables do not depend on placements, on the number of
devices, or on micro-batches; every encoding works with every model; a restored
state learns what the saved one does; what eight devices wrote is scored equally
on one, in another layout.
"""

import functools
import json

import jax
import numpy as np
import pytest

from dlrm_jax import sharding
from dlrm_jax.build.network import MODELS
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.run.evaluation import Evaluator
from dlrm_jax.training.state import abstract_state, new_state
from dlrm_jax.training.step import compiled_step
from tests import commands, family

PLACEMENTS = [
  {'placement': 'row_wise'},
  {'placement': 'table_wise'},
  {'placement': 'replicated'},
  {'placement': 'column_wise', 'columns': 2},
  {'placement': 'auto', 'update': 'dense'},
  {'placement': 'grid', 'spread': 4, 'columns': 2},
]
"""Fields of a feature, for each way of placing and updating its tables."""

REGULARISED = {
  'model.norm': 'batch',
  'model.dropout': 0.2,
  'model.l2': 0.01,
  'train.clip': 0.7,
}
"""All that may depend on other examples, or on chance; clips from step 1 on."""

QUICK = {'mf'}
"""Models whose steps are compiled fast."""


def mixed(name, shift):
  """Fields of a config whose features are all placed in other ways."""
  ways = PLACEMENTS
  columns = family.schema_of(name).sparse
  features = {
    column.name: ways[(i + shift) % len(ways)]
    for i, column in enumerate(columns)
  }
  return {'tables.features': features}


@functools.cache
def on_one(name):
  """What a model learns on one device, all its tables row-wise."""
  fields = {**REGULARISED, 'tables.placement': 'row_wise'}
  return family.learned(name, family.task_of(name, fields), 1)


def cases():
  """Each model on 2, 4 and 8 devices, each time with other placements."""
  for name in MODELS:
    for devices, shift in ((2, 4), (4, 2), (8, 0)):
      quick = name in QUICK and devices == 8
      marks = [] if quick else [pytest.mark.slow]
      yield pytest.param(name, devices, shift, marks=marks)


def each(quick):
  """Each model; those that are not quick are marked."""
  for name in MODELS:
    yield pytest.param(name, marks=[] if name in quick else [pytest.mark.slow])


@pytest.mark.parametrize(('name', 'devices', 'shift'), [*cases()])
def test_models_learn_the_same_wherever_their_tables_are(name, devices, shift):
  task = family.task_of(name, REGULARISED | mixed(name, shift))
  found = family.learned(name, task, devices)
  family.assert_close(found, on_one(name))
  assert len({*found[0]}) == 3
  if name not in family.WITHOUT_MLP:
    assert task.network.normalises_batches
    assert jax.tree.leaves(found[2])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['deepfm', 'neumf', 'esmm'])
def test_branches_learn_the_same_wherever_their_tables_are(name):
  fields = {**REGULARISED, 'model.branches': 2}
  alone = family.task_of(name, {**fields, 'tables.placement': 'row_wise'})
  found = family.learned(name, family.task_of(name, fields | mixed(name, 1)), 4)
  family.assert_close(found, family.learned(name, alone, 1))


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_models_of_independent_nodes_do_not_depend_on_devices(name):
  fields = {'tables.placement': 'independent', **REGULARISED}
  task = family.task_of(name, fields)
  family.assert_close(
    family.learned(name, task, 8), family.learned(name, task, 1)
  )


@pytest.mark.parametrize('name', [*each({'neumf'})])
def test_models_learn_the_same_in_micro_batches(name):
  fields = {'model.norm': 'layer', 'model.dropout': 0.2}
  whole, pieces = (
    family.task_of(name, {**fields, 'train.micro_batch': size})
    for size in (0, 4)
  )
  wanted = family.learned(name, whole, 1)
  family.assert_close(family.learned(name, pieces, 4), wanted)


ENCODINGS = [
  {'encoding': 'hashed', 'parts': 2, 'combine': 'add'},
  {'encoding': 'quotient_remainder', 'combine': 'mult'},
  {'encoding': 'chinese_remainder', 'combine': 'add'},
  {'encoding': 'tensor_train'},
  {'encoding': 'robe'},
  {'encoding': 'quotient_remainder', 'combine': 'path'},
  {'encoding': 'mixed_dims'},  # needs another table beside it
  {'encoding': 'mixed_dims'},
]


def turns():
  """Each model with each encoding: those of two features in more turns."""
  for name in MODELS:
    for shift in range(0, len(ENCODINGS), 2 if name in family.PAIRS else 4):
      marks = [] if name in QUICK and not shift else [pytest.mark.slow]
      yield pytest.param(name, shift, marks=marks)


@pytest.mark.parametrize(('name', 'shift'), [*turns()])
def test_every_encoding_works_with_every_model(name, shift):
  """Features have different ones; so they differ in their tables, too."""
  columns = family.schema_of(name).sparse
  features = {
    column.name: ENCODINGS[(i + shift) % len(ENCODINGS)]
    for i, column in enumerate(columns)
  }
  fields = {'tables.features': features, 'tables.threshold': 0}
  task = family.task_of(name, fields)
  with family.on(4):
    state = new_state(task, jax.random.key(0))
    batch = sharding.send(family.batch_of(name, 0))
    state, told = compiled_step(task)(state, batch)
    tallies = Evaluator(task)(state, [family.batch_of(name, 1)])
  assert np.isfinite(told.loss)
  assert {head.name for head in task.heads} == tallies.keys()


@pytest.mark.parametrize('name', [*each(QUICK)])
def test_a_restored_state_learns_bit_for_bit_what_the_saved_one_does(
  name, tmp_path
):
  task = family.task_of(name, REGULARISED | mixed(name, 2))
  batches = [family.batch_of(name, seed) for seed in range(2)]
  with family.on(8):
    step = compiled_step(task)
    state = new_state(task, jax.random.key(0))
    state, _ = step(state, sharding.send(batches[0]))
    checkpoints = Checkpoints(tmp_path, task.collection.layout, keep=1)
    checkpoints.save(1, state, {})
    checkpoints.close()
    wanted, told = jax.device_get(step(state, sharding.send(batches[1])))
    checkpoints = Saved(tmp_path, task.collection.layout)
    state = checkpoints.restore(1, abstract_state(task))
    found, again = jax.device_get(step(state, sharding.send(batches[1])))
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert again.loss == told.loss


@pytest.mark.parametrize('name', [*each(QUICK)])
def test_what_eight_devices_wrote_is_scored_equally_on_one(name, tmp_path):
  layouts = mixed(name, 0), mixed(name, 1) | {'tables.shards': 4}
  before, after = (
    family.task_of(name, REGULARISED | layout) for layout in layouts
  )
  assert before.collection.layout != after.collection.layout
  state, _ = family.trained(name, before, 8, 1)
  batch = family.batch_of(name, 9)
  with family.on(8):
    checkpoints = Checkpoints(tmp_path, before.collection.layout, keep=1)
    checkpoints.save(1, state, {})
    checkpoints.close()
    wanted = scored(before, state, batch)
  with family.on(1):
    checkpoints = Saved(tmp_path, after.collection.layout)
    state = checkpoints.restore(1, abstract_state(after))
    np.testing.assert_allclose(
      scored(after, state, batch), wanted, rtol=1e-5, atol=1e-6
    )


def scored(task, state, batch):
  """Logits f32[B, T] of a batch."""
  score = jax.jit(task.network.outputs)
  inputs = sharding.send(batch).inputs
  return jax.device_get(score(state.layers, state.tables, inputs))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['rmc1', 'rmc2', 'rmc3'])
def test_classes_of_production_models_train_and_are_scored(name, tmp_path):
  """A thousandth of their rows, and few examples."""
  fields = {
    'data.synthetic.size': 0.001,
    'data.synthetic.train': 512,
    'data.synthetic.validation': 128,
    'data.synthetic.test': 128,
    'data.lanes': 1,
    'train.batch_size': 64,
    'train.eval_batch_size': 64,
    'train.steps': 2,
  }
  flags = [f'--config.{field}={value}' for field, value in fields.items()]
  config = f'--config=configs/rmc.py:{name}'
  commands.run(['train.py', config, f'--workdir={tmp_path}', *flags])
  results = json.loads((tmp_path / 'results.json').read_text())
  found = results['splits']['test']
  assert found['examples'] == 128
  assert found['log_loss'] < 1
  assert results['references']['test']['Bayes']['auc'] > 0.7
