"""Files of the real programs: what they predict, there and back.

`final_predictions.npz` has the probabilities that the programs themselves give
with these files, for the first inputs of the goldens.
"""

import numpy as np
import pytest

from dlrm_jax.convert import torch_files
from tests.convert import models

torch = pytest.importorskip('torch', reason='PyTorch is not installed')


@pytest.fixture(scope='module', params=models.FILES)
def converted(request, tmp_path_factory):
  """(name of the file, the program, its golden, our workdir)."""
  program, golden, fields = models.FILES[request.param]
  held = models.Golden(golden)
  fields = {**fields, 'data.expected.hotness': held.hotness}
  folder = tmp_path_factory.mktemp('converted') / 'run'
  models.taken(program, models.GOLDENS / request.param, fields, folder)
  return request.param, program, held, folder


def tensors_of(path):
  """Tensors by name, also those in nested dicts."""
  return {
    name: array.tensor
    for name, array in torch_files.arrays_of(
      torch_files.read_file(path)
    ).items()
  }


def test_predictions_are_those_of_the_program(converted):
  name, _, golden, folder = converted
  with np.load(models.GOLDENS / 'final_predictions.npz') as file:
    wanted = dict(file)
  logits = models.logits(folder, golden.inputs)
  np.testing.assert_allclose(
    1 / (1 + np.exp(-logits.astype(np.float64))),
    wanted[name.removesuffix('.pt')],
    rtol=0,
    atol=1e-6,
  )
  if golden.wanted is not None:
    assert (golden.wanted == wanted[name.removesuffix('.pt')]).all()


def test_there_and_back_every_tensor_has_the_same_bytes(converted, tmp_path):
  name, program, _, folder = converted
  models.given(program, folder, tmp_path / 'back.pt')
  there = tensors_of(models.GOLDENS / name)
  back = tensors_of(tmp_path / 'back.pt')
  assert list(back) == list(there)
  for tensor in there:
    a, b = there[tensor], back[tensor]
    assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
    assert a.numpy().tobytes() == b.numpy().tobytes(), tensor


def test_a_file_is_as_the_program_saves_it(converted, tmp_path):
  name, program, _, folder = converted
  models.given(program, folder, tmp_path / 'back.pt')
  # Without what is allowed to NumPy: as the program loads it.
  back = torch.load(tmp_path / 'back.pt', weights_only=True)
  if program == 'torchrec':
    there = torch.load(models.GOLDENS / name, weights_only=True)
    assert type(back) is type(there)
    assert [*back] == [*there]
    return
  saved = models.GOLDENS / 'fb_saved_sgd.pt'
  there = torch_files.read_file(saved)
  assert back.keys() == there.keys()
  assert back['opt_state_dict'].keys() == there['opt_state_dict'].keys()
  (group,) = back['opt_state_dict']['param_groups']
  (wanted,) = there['opt_state_dict']['param_groups']
  assert group == wanted


def test_a_workdir_of_a_file_has_the_sizes_of_its_tables(converted):
  *_, golden, folder = converted
  task, state = models.opened(folder)
  assert int(state.step) == 0
  rows = golden.meta.get('table_rows', golden.meta.get('rows'))
  assert [f.encoding.ids for f in task.collection.features] == rows
  assert task.network.dense_features == golden.dense.shape[1]


@pytest.mark.parametrize('name', [x for x in models.FILES if 'rec' in x])
def test_a_folder_of_torchrec_there_and_back(name, tmp_path):
  program, golden, fields = models.FILES[name]
  inputs = models.Golden(golden)
  fields = {**fields, 'data.expected.hotness': inputs.hotness}
  source = models.GOLDENS / name
  models.taken(program, source, fields, tmp_path / 'run')
  models.given(program, tmp_path / 'run', tmp_path / 'folder')
  models.taken(program, tmp_path / 'folder', fields, tmp_path / 'again')
  models.given(program, tmp_path / 'again', tmp_path / 'again.pt')
  there, back = tensors_of(source), tensors_of(tmp_path / 'again.pt')
  assert list(back) == list(there)
  for tensor, x in there.items():
    assert back[tensor].numpy().tobytes() == x.numpy().tobytes(), tensor


@pytest.mark.filterwarnings('ignore:torch.distributed is disabled')
def test_pytorch_loads_a_folder_that_was_written(tmp_path):
  name = 'torchrec_dcnv2_state_dict.pt'
  program, _, fields = models.FILES[name]
  source = models.GOLDENS / name
  models.taken(program, source, fields, tmp_path / 'run')
  models.given(program, tmp_path / 'run', tmp_path / 'folder')
  there = tensors_of(source)
  state = {tensor: torch.empty_like(x) for tensor, x in there.items()}
  torch.distributed.checkpoint.load(
    state, checkpoint_id=tmp_path / 'folder', no_dist=True
  )
  for tensor, x in there.items():
    assert state[tensor].numpy().tobytes() == x.numpy().tobytes(), tensor
