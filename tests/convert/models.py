"""Files of other programs, and conversions of them, for tests."""

import contextlib
import json
import pathlib

import jax
import numpy as np

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.build import restored
from dlrm_jax.checkpoint.checkpoints import Checkpoints
from dlrm_jax.configs import default
from dlrm_jax.convert.exporting import export_model
from dlrm_jax.convert.facebook import FACEBOOK
from dlrm_jax.convert.importing import import_model
from dlrm_jax.convert.torchrec import TORCHREC
from dlrm_jax.run import workdir
from dlrm_jax.training.state import abstract_state

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
  lines = export_model(
    PROGRAMS[program], folder, checkpoint, output, DEFAULTS
  )
  return list(lines)


def opened(folder, step=0):
  """The task of a workdir and a state of it, on one device."""
  trained = restored.trained(*workdir.read_settings(folder, DEFAULTS))
  layout = trained.task.collection.layout
  checkpoints = Checkpoints(folder / 'checkpoints', layout)
  with sharding.use(sharding.make_mesh(jax.devices()[:1])):
    state = checkpoints.restore(step, abstract_state(trained.task))
  return trained.task, state


def padded(indices, lengths, hotness):
  ids = np.full((len(lengths), hotness), PAD, np.int32)
  ids[np.arange(hotness)[None] < lengths[:, None]] = indices
  return ids


def inputs_of(indices, offsets, dense, hotness):
  """Inputs of a network from ids and offsets of each table."""
  lengths = [
    np.diff(o, append=len(i)) for i, o in zip(indices, offsets, strict=True)
  ]
  ids = [
    padded(*x, h) for *x, h in zip(indices, lengths, hotness, strict=True)
  ]
  return Inputs(dense, np.concatenate(ids, 1))


class Golden:
  """Inputs of a golden file, and what the program gave for them."""

  def __init__(self, name):
    held = np.load(GOLDENS / f'{name}.npz')
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
      int(max(1, np.diff(o, append=len(i)).max()))
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
