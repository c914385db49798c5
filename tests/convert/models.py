"""Files of other programs, and conversions of them, for tests."""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.build.data import open_schema
from dlrm_jax.build.network import build_network
from dlrm_jax.build.trained import trained
from dlrm_jax.checkpoint.saved import Saved
from dlrm_jax.configs import default
from dlrm_jax.convert import torch_files
from dlrm_jax.convert.exporting import export_model
from dlrm_jax.convert.facebook import FACEBOOK
from dlrm_jax.convert.importing import import_model
from dlrm_jax.convert.program import Setting
from dlrm_jax.convert.torchrec import TORCHREC
from dlrm_jax.run import workdir
from dlrm_jax.training.state import abstract_state

PEER = os.environ.get('DLRM_JAX_PEER_PYTHON', sys.executable)
GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens'
PROGRAMS = {'fb': FACEBOOK, 'torchrec': TORCHREC}
DEFAULTS = default.get_config().to_dict()
FILES = {
  'fb_saved_sgd.pt': ('fb', 'fb_saved_sgd', {'model.bottom': (32, 16)}),
  'fb_checkpoint.pt': ('fb', 'fb_onehot_sgd', {'model.bottom': (32, 16)}),
  'torchrec_dlrm_state_dict.pt': (
    'torchrec',
    'torchrec_dlrm',
    {'model.bottom': (32,)},
  ),
  'torchrec_dcnv2_state_dict.pt': (
    'torchrec',
    'torchrec_dcnv2',
    {'model.bottom': (32,), 'model.name': 'dcn', 'model.dcn.rank': 6},
  ),
}
"""Files of other programs: the program, its inputs and outputs, our config."""


def config_of(fields):
  config = default.get_config()
  config.model.dim = 8
  config.model.top = (24, 12)
  config.update_from_flattened_dict(fields)
  return config


def taken(program, source, fields, folder):
  """The lines of a conversion into a workdir."""
  lines = import_model(
    PROGRAMS[program], source, config_of(fields), folder, DEFAULTS
  )
  return list(lines)


def given(program, folder, output, checkpoint='best'):
  """The lines of a conversion of a workdir."""
  lines = export_model(PROGRAMS[program], folder, checkpoint, output, DEFAULTS)
  return list(lines)


def opened(folder, step=0):
  """The task of a workdir and a state of it, on one device."""
  task = trained(*workdir.read_settings(folder, DEFAULTS)).task
  saved = Saved(folder / 'checkpoints', task.collection.layout)
  with one_device():
    state = saved.restore(step, abstract_state(task))
  return task, state


def padded(indices, lengths, hotness):
  ids = np.full((len(lengths), hotness), PAD, np.int32)
  ids[np.arange(hotness)[None] < lengths[:, None]] = indices
  return ids


def inputs_of(indices, offsets, dense, hotness):
  """Inputs of a network from ids and offsets of each table."""
  lengths = [
    np.diff(o, append=len(i)) for i, o in zip(indices, offsets, strict=True)
  ]
  ids = [padded(*x) for x in zip(indices, lengths, hotness, strict=True)]
  return Inputs(dense, np.concatenate(ids, 1))


class Golden:
  """Inputs of a golden file, and what the program gave for them."""

  def __init__(self, name):
    with np.load(GOLDENS / f'{name}.npz') as file:
      held = dict(file)
    self.meta = json.loads(str(held['meta']))
    rows = self.meta.get('table_rows', self.meta.get('rows'))
    if 'predictions' in held and held['predictions'].ndim == 1:
      step, self.wanted = '', held['predictions']
    else:
      step, self.wanted = 'step0/', None
    self.dense = held[f'{step}dense']
    if f'{step}lengths' in held:
      lengths = held[f'{step}lengths'].reshape(len(rows), -1)
      cuts = np.cumsum(lengths.sum(1))[:-1]
      self.indices = np.split(held[f'{step}values'], cuts)
      self.offsets = [np.cumsum(x) - x for x in lengths]
    else:
      tables = range(len(rows))
      self.indices = [held[f'{step}indices{t}'] for t in tables]
      self.offsets = [held[f'{step}offsets{t}'] for t in tables]
    self.hotness = tuple(
      max(1, np.diff(o, append=len(i)).max().item())
      for i, o in zip(self.indices, self.offsets, strict=True)
    )

  @property
  def inputs(self):
    return inputs_of(self.indices, self.offsets, self.dense, self.hotness)


@contextlib.contextmanager
def one_device():
  with sharding.use(sharding.make_mesh(jax.devices()[:1])):
    yield


def logits(folder, inputs, step=0):
  """Logits of a workdir's network."""
  task, state = opened(folder, step)
  with one_device():
    outputs = task.network.outputs(state.layers, state.tables, inputs)
  return np.asarray(outputs)[:, 0]


ROWS = (7, 31, 100, 4, 57)
_QUOTIENTS = {
  'tables.encoding': 'quotient_remainder',
  'tables.buckets': (3, 0),
  'tables.threshold': 7,
}
_QR = {'qr_flag': True, 'qr_collisions': 3, 'qr_threshold': 7}
ADAGRADS = {'optimizer.name': 'adagrad', 'table_optimizer.name': 'adagrad'}
ROWWISE = {**ADAGRADS, 'table_optimizer.name': 'rowwise_adagrad'}
CASES = {
  'fb dot': ('fb', {}, {'optimizer': 'sgd'}),
  'fb one id a feature': (
    'fb',
    {'data.expected.hotness': (), 'model.bottom': ()},
    {'bottom': [8]},
  ),
  'fb dot with itself': (
    'fb',
    {'model.dlrm.interaction': 'dot_itself', **ADAGRADS},
    {'itself': True, 'optimizer': 'adagrad'},
  ),
  'fb cat': (
    'fb',
    {'model.dlrm.interaction': 'cat', **ROWWISE},
    {'interaction': 'cat', 'optimizer': 'rwsadagrad'},
  ),
  'fb products of quotients and remainders': (
    'fb',
    {**_QUOTIENTS, 'tables.multi_hot': 'pool_then_combine', **ROWWISE},
    {'options': {**_QR, 'qr_operation': 'mult'}, 'optimizer': 'rwsadagrad'},
  ),
  'fb sums of quotients and remainders': (
    'fb',
    {**_QUOTIENTS, 'tables.combine': 'add'},
    {'options': {**_QR, 'qr_operation': 'add'}},
  ),
  'fb quotients beside remainders': (
    'fb',
    {**_QUOTIENTS, 'tables.combine': 'concat', 'tables.threshold': 0},
    {
      'options': {**_QR, 'qr_operation': 'concat', 'qr_threshold': 0},
      'stored_dim': 4,
    },
  ),
  'fb quotients beside remainders, cat': (
    'fb',
    {
      **_QUOTIENTS,
      'tables.combine': 'concat',
      'tables.threshold': 0,
      'model.dlrm.interaction': 'cat',
      **ADAGRADS,
    },
    {
      'options': {**_QR, 'qr_operation': 'concat', 'qr_threshold': 0},
      'stored_dim': 4,
      'interaction': 'cat',
      'optimizer': 'adagrad',
    },
  ),
  'fb mixed dimensions': (
    'fb',
    {
      'tables.encoding': 'mixed_dims',
      'tables.alpha': 0.4,
      'tables.threshold': 0,
      **ADAGRADS,
    },
    {
      'options': {'md_flag': True, 'md_threshold': 0},
      'widths': [8, 4, 2, 8, 2],
      'optimizer': 'adagrad',
    },
  ),
  'torchrec DLRM': ('torchrec', {}, {}),
  'torchrec DLRM, a folder': ('torchrec', ADAGRADS, {'folder': True}),
  'torchrec DLRM_DCN': (
    'torchrec',
    {'model.name': 'dcn', 'model.dcn.rank': 6, 'model.dcn.layers': 2},
    {'layers': 2, 'rank': 6},
  ),
  'torchrec DLRM_DCN, a folder': (
    'torchrec',
    {'model.name': 'dcn', 'model.dcn.rank': 6, 'model.dcn.layers': 2} | ROWWISE,
    {'layers': 2, 'rank': 6, 'folder': True},
  ),
}
"""Models: the program, the fields of our config, what the program is told."""
_EXPECTED = {
  'data.expected.dense': 13,
  'data.expected.rows': ROWS,
  'data.expected.hotness': (2, 1, 3, 1, 2),
  'model.bottom': (16,),
}


def fields_of(name):
  return {**_EXPECTED, **CASES[name][1]}


def meta_of(name):
  """What the program is told of a model."""
  return {
    'rows': ROWS,
    'dim': 8,
    'dense': 13,
    'bottom': [16, 8],
    'top': [24, 12, 1],
    **CASES[name][2],
  }


def network_of(fields):
  config = config_of(fields)
  return build_network(config, *open_schema(config))


def content_of(name, seed=0):
  """What a program might save of a model: random numbers."""
  import torch

  program, _, meta = CASES[name]
  fields, generator = fields_of(name), torch.Generator().manual_seed(seed)
  chosen = config_of(fields)
  names = chosen.optimizer.name, chosen.table_optimizer.name
  tensors, slots = {}, {}
  for match in PROGRAMS[program].matches(network_of(fields)):
    tensors[match.name] = torch.randn(match.shape, generator=generator) / 3
    slot = PROGRAMS[program].slot(match, *names, 'folder' in meta)
    if slot:
      by_row = match.is_table and names[1] == 'rowwise_adagrad'
      shape = match.shape[:1] if by_row else match.shape
      slots[match.name] = {slot: torch.rand(shape, generator=generator)}
  return PROGRAMS[program].content(tensors, slots, Setting(0.1, 0, 0.75))


def made(name, path):
  """Writes such a file, or a folder."""
  as_folder = 'folder' in CASES[name][2]
  write = torch_files.write_folder if as_folder else torch_files.write_file
  write(content_of(name), path)


def random_inputs(name, examples=32):
  """(Inputs of our network, the same as other programs take them)."""
  fields, generator = fields_of(name), np.random.default_rng(3)
  hotness = fields['data.expected.hotness'] or (1,) * len(ROWS)
  held = {}
  held['dense'] = generator.normal(size=(examples, 13)).astype(np.float32)
  for t, (rows, most) in enumerate(zip(ROWS, hotness, strict=True)):
    least = 1 if most == 1 else 0
    lengths = generator.integers(least, most + 1, examples)
    held[f'offsets{t}'] = np.cumsum(lengths) - lengths
    held[f'indices{t}'] = generator.integers(0, rows, lengths.sum())
  tables = range(len(ROWS))
  ours = inputs_of(
    [held[f'indices{t}'] for t in tables],
    [held[f'offsets{t}'] for t in tables],
    held['dense'],
    hotness,
  )
  return ours, held


def peer(*arguments):
  """What the process of a program prints at the end."""
  script = pathlib.Path(__file__).with_name('peer.py')
  done = subprocess.run(
    [PEER, script, *arguments],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': '', 'OMP_NUM_THREADS': '1'},
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()[-1] if done.stdout else ''


why_absent = functools.cache(peer)
