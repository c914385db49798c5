"""The public step gives the numbers of facebookresearch/dlrm's own runs."""

import functools
import json
import math
import os
import pathlib

import jax
import numpy as np
import optax
import pytest

from dlrm_jax.batch import PAD, Batch, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Composed, Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.operations import Add, Mult
from dlrm_jax.embedding.partitions import QuotientRemainder
from dlrm_jax.embedding.table import Table
from dlrm_jax.losses import binary_cross_entropy, squared_error
from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, TrainState, create_state
from dlrm_jax.training.step import train_step

FOLDER = pathlib.Path(
  os.environ.get('DLRM_JAX_GOLDENS', pathlib.Path(__file__).parent / 'goldens')
)
NAMES = sorted(path.stem for path in FOLDER.glob('fb_*.npz'))
OPERATIONS = {'mult': Mult(), 'add': Add()}
LOSSES = {'bce': binary_cross_entropy, 'mse': squared_error}


def optimizers(meta):
  """(for the MLPs, for the tables)."""
  descend = optax.scale_by_learning_rate(meta['learning_rate'])
  dense, table = {
    'sgd': (optax.identity, optax.identity),
    'adagrad': (scale_by_adagrad, scale_by_adagrad),
    'rwsadagrad': (scale_by_adagrad, scale_by_rowwise_adagrad),
  }[meta['optimizer']]
  return optax.chain(dense(), descend), rowwise(optax.chain(table(), descend))


def longest_bags(golden, tables, steps):
  longest = [1] * tables
  for step in range(steps):
    for t in range(tables):
      lengths = np.diff(
        golden[f'step{step}/offsets{t}'],
        append=len(golden[f'step{step}/indices{t}']),
      )
      longest[t] = max(longest[t], lengths.max())
  return longest


def bags(golden, step, table, hotness):
  """EmbeddingBag's indices and offsets -> i32[B, hotness] with PAD."""
  indices = golden[f'step{step}/indices{table}']
  offsets = golden[f'step{step}/offsets{table}']
  ends = np.append(offsets[1:], len(indices))
  ids = np.full((len(offsets), hotness), PAD, np.int32)
  for row, (a, b) in enumerate(zip(offsets, ends, strict=True)):
    ids[row, : b - a] = indices[a:b]
  return ids


def batch_of(golden, step, hotness):
  dense = golden[f'step{step}/dense']
  labels = golden[f'step{step}/labels'].reshape(-1)
  ids = [bags(golden, step, t, h) for t, h in enumerate(hotness)]
  return Batch(
    Inputs(dense, np.concatenate(ids, 1)),
    labels[:, None],
    np.ones_like(labels),
  )


def params_of(golden, prefix, params):
  """The reference's layers in our tree: weights are transposed."""

  def layer(part, k):
    name = f'{prefix}/{"bot" if part == "bottom" else "top"}_l.{2 * k}'
    return {
      'kernel': golden[f'{name}.weight'].T,
      'bias': golden[f'{name}.bias'],
    }

  return {
    part: {name: layer(part, int(name.split('_')[1])) for name in layers}
    for part, layers in params.items()
  }


def task_of(golden, meta, steps):
  hotness = longest_bags(golden, len(meta['table_rows']), steps)
  features = tuple(
    Feature(f't{t}', encoding_of(golden, meta, f'emb_l.{t}', rows), hotness[t])
    for t, rows in enumerate(meta['table_rows'])
  )
  interaction = meta['interaction'] + (
    '_itself' if meta['self_interaction'] else ''
  )
  tx, table_tx = optimizers(meta)
  return Task(
    network=Network(
      collection=EmbeddingCollection(features),
      model=DLRM(
        bottom=tuple(meta['bottom'][1:]),
        top=tuple(meta['top'][1:-1]),
        interaction=Interaction(interaction),
      ),
      dense_features=meta['bottom'][0],
    ),
    heads=(Head(LOSSES[meta['loss']]),),
    tx=tx,
    table_tx=table_tx,
  ), hotness


def encoding_of(golden, meta, name, rows):
  """Plain, or of the tables of remainders and quotients."""
  if not meta.get('qr_flag') or rows <= meta['qr_threshold']:
    return Plain(start(golden, f'{name}.weight'))
  collisions = meta['qr_collisions']
  return Composed(
    tuple(start(golden, f'{name}.weight_{part}') for part in 'rq'),
    QuotientRemainder(rows, (collisions, math.ceil(rows / collisions))),
    OPERATIONS[meta['qr_operation']],
    meta['dim'],
    sums_first=True,
  )


def start(golden, name):
  """A table with the reference's first values."""
  weight = jax.numpy.asarray(golden[f'init/{name}'])
  rows, dim = weight.shape
  return Table(
    name, rows, dim, lambda seed, row, column, bound: weight[row, column]
  )


@pytest.mark.parametrize('name', NAMES)
def test_losses_and_weights_are_those_of_the_reference(name):
  golden = np.load(FOLDER / f'{name}.npz')
  meta, losses = json.loads(str(golden['meta'])), golden['losses']
  task, hotness = task_of(golden, meta, len(losses))
  state = create_state(task, jax.random.key(0))
  layers = state.params['model']
  state = TrainState(
    step=state.step,
    params={'model': params_of(golden, 'init', layers)},
    opt_state=state.opt_state,
    tables=state.tables,
    table_state=state.table_state,
  )
  step = jax.jit(functools.partial(train_step, task))
  for k, loss in enumerate(losses):
    batch = batch_of(golden, k, hotness)
    outputs = task.network.outputs(state.layers, state.tables, batch.inputs)
    probabilities = jax.nn.sigmoid(outputs[:, 0])
    np.testing.assert_allclose(
      probabilities, golden['predictions'][k].reshape(-1), rtol=1e-5, atol=1e-6
    )
    state, metrics = step(state, batch)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
  final = params_of(golden, 'final', layers)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5),
    state.params['model'],
    final,
  )
  tables = {t.name for t in task.collection.tables}
  assert tables == {
    key.removeprefix('final/')
    for key in golden
    if key.startswith('final/emb_l.')
  }
  for name in tables:
    np.testing.assert_allclose(
      task.collection.read(state.tables, name),
      golden[f'final/{name}'],
      atol=1e-5,
    )


def test_goldens_are_there():
  assert {'fb_dot_sgd_bce', 'fb_qr_mult_sgd', 'fb_qr_add_sgd'} <= {*NAMES}, (
    f'goldens are missing in {FOLDER}'
  )
