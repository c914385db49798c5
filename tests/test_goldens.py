"""The public step gives the numbers of other programs' own runs.

The programs are facebookresearch/dlrm (`fb_*.npz`) and torchrec
(`torchrec_*.npz`).
"""

import dataclasses
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
from dlrm_jax.checkpoint.fits import leaves
from dlrm_jax.convert.facebook import FACEBOOK
from dlrm_jax.convert.torchrec import TORCHREC
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoding import Composed, Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.operations import Add, Mult
from dlrm_jax.embedding.partitions import QuotientRemainder
from dlrm_jax.embedding.table import Table
from dlrm_jax.losses import binary_cross_entropy, squared_error
from dlrm_jax.models.dcn import DCN
from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from dlrm_jax.training.heads import Head
from dlrm_jax.training.state import Task, create_state
from dlrm_jax.training.step import train_step

FOLDER = pathlib.Path(
  os.environ.get('DLRM_JAX_GOLDENS', pathlib.Path(__file__).parent / 'goldens')
)
NAMES = sorted(
  path.stem
  for program in ('fb', 'torchrec')
  for path in FOLDER.glob(f'{program}_*.npz')
  if 'losses' in np.load(path)  # others are models without their training
)
_QUICK = 'fb_dot_sgd_bce', 'fb_qr_mult_sgd', 'torchrec_dcnv2'
OPERATIONS = {'mult': Mult(), 'add': Add()}
LOSSES = {'bce': binary_cross_entropy, 'mse': squared_error}


def optimizers(meta):
  """(for the MLPs, for the tables)."""
  if 'over' in meta:
    adagrad = functools.partial(scale_by_adagrad, eps=1e-8)
    dense, table, rate = adagrad, adagrad, 0.01
  else:
    rate = meta['learning_rate']
    dense, table = {
      'sgd': (optax.identity, optax.identity),
      'adagrad': (scale_by_adagrad, scale_by_adagrad),
      'rwsadagrad': (scale_by_adagrad, scale_by_rowwise_adagrad),
    }[meta['optimizer']]
  descend = optax.scale_by_learning_rate(rate)
  return optax.chain(dense(), descend), rowwise(optax.chain(table(), descend))


def bags(golden, step, table):
  """The ids of a table, one after the other, and the length of each bag."""
  if f'step{step}/lengths' in golden:
    size = len(golden[f'step{step}/labels'])
    lengths = golden[f'step{step}/lengths']
    start = lengths[: table * size].sum()
    lengths = lengths[table * size : (table + 1) * size]
    values = golden[f'step{step}/values']
    return values[start : start + lengths.sum()], lengths
  indices = golden[f'step{step}/indices{table}']
  offsets = golden[f'step{step}/offsets{table}']
  return indices, np.diff(offsets, append=len(indices))


def longest_bags(golden, tables, steps):
  return [
    max(1, *(bags(golden, step, t)[1].max() for step in range(steps)))
    for t in range(tables)
  ]


def padded(indices, lengths, hotness):
  """Bags one after the other -> i32[B, hotness] with PAD."""
  ids = np.full((len(lengths), hotness), PAD, np.int32)
  ids[np.arange(hotness)[None] < lengths[:, None]] = indices
  return ids


def batch_of(golden, step, hotness):
  dense = golden[f'step{step}/dense']
  labels = golden[f'step{step}/labels'].reshape(-1)
  ids = [padded(*bags(golden, step, t), h) for t, h in enumerate(hotness)]
  return Batch(
    Inputs(dense, np.concatenate(ids, 1)),
    labels[:, None],
    np.ones_like(labels),
  )


def program_of(meta):
  return TORCHREC if 'over' in meta else FACEBOOK


def params_of(golden, meta, prefix, network):
  """The reference's layers in our tree."""
  layers = {
    match.ours: match.to_ours(golden[f'{prefix}/{match.name}'])
    for match in program_of(meta).matches(network)
    if not match.is_table
  }
  tree = network.init(jax.random.key(0)).params
  return jax.tree.unflatten(
    jax.tree.structure(tree), [layers[name] for name in leaves(tree)]
  )


def model_of(meta):
  if 'over' not in meta:
    itself = '_itself' if meta['self_interaction'] else ''
    return DLRM(
      bottom=tuple(meta['bottom'][1:]),
      top=tuple(meta['top'][1:-1]),
      interaction=Interaction(meta['interaction'] + itself),
    )
  mlps = {'bottom': tuple(meta['dense']), 'top': tuple(meta['over'][:-1])}
  if 'dcn_num_layers' not in meta:
    return DLRM(**mlps)
  layers, rank = meta['dcn_num_layers'], meta['dcn_low_rank_dim']
  return DCN(**mlps, layers=layers, rank=rank)


def table_names(meta):
  prefix = 'sparse_arch.embedding_bag_collection.embedding_bags.t_cat_'
  prefix = prefix if 'over' in meta else 'emb_l.'
  return [f'{prefix}{t}' for t in range(len(meta['table_rows']))]


def task_of(golden, meta, steps):
  rows = meta['table_rows']
  hotness = longest_bags(golden, len(rows), steps)
  features = tuple(
    Feature(f't{t}', encoding_of(golden, meta, name, rows[t]), hotness[t])
    for t, name in enumerate(table_names(meta))
  )
  tx, table_tx = optimizers(meta)
  return Task(
    network=Network(
      collection=EmbeddingCollection(features),
      model=model_of(meta),
      dense_features=golden['step0/dense'].shape[1],
    ),
    heads=(Head(LOSSES[meta.get('loss', 'bce')]),),
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


@pytest.mark.parametrize(
  'name',
  [
    name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
  ],
)
def test_losses_and_weights_are_those_of_the_reference(name):
  golden = np.load(FOLDER / f'{name}.npz')
  meta, losses = json.loads(str(golden['meta'])), golden['losses']
  scored = 'predictions' if 'predictions' in golden else 'logits'
  task, hotness = task_of(golden, meta, len(losses))
  state = create_state(task, jax.random.key(0))
  first = params_of(golden, meta, 'init', task.network)
  state = dataclasses.replace(state, params=first)
  step = jax.jit(functools.partial(train_step, task))
  for k, loss in enumerate(losses):
    batch = batch_of(golden, k, hotness)
    outputs = task.network.outputs(state.layers, state.tables, batch.inputs)
    got, want = outputs[:, 0], golden[scored][k].reshape(-1)
    if scored == 'predictions':
      got = jax.nn.sigmoid(got)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    state, metrics = step(state, batch)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
  final = params_of(golden, meta, 'final', task.network)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5),
    state.params,
    final,
  )
  tables = {t.name for t in task.collection.tables}
  matches = program_of(meta).matches(task.network)
  assert {m.ours for m in matches if m.is_table} == tables
  assert {m.name for m in matches} == {
    key.removeprefix('final/') for key in golden if key.startswith('final/')
  }
  for name in tables:
    np.testing.assert_allclose(
      task.collection.read(state.tables, name),
      golden[f'final/{name}'],
      atol=1e-5,
    )


def test_goldens_are_there():
  needed = {'fb_dot_sgd_bce', 'fb_qr_mult_sgd', 'fb_qr_add_sgd'}
  needed |= {'torchrec_dlrm', 'torchrec_dcnv2'}
  assert needed <= {*NAMES}, f'goldens are missing in {FOLDER}'
