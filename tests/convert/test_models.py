"""Models of all kinds there and back, and in the programs that they are for."""

import json

import numpy as np
import pytest

from dlrm_jax.convert import torch_files, torch_folders
from dlrm_jax.convert.scratch import Scratch
from tests.convert import models

torch = pytest.importorskip('torch', reason='PyTorch is not installed')


def tensors_in(path, tmp_path):
  """All tensors of a file or folder, by name."""
  if path.is_dir():
    tmp_path.mkdir()
    found = torch_folders.read_folder(path, Scratch(tmp_path))
  else:
    found = torch_files.arrays_of(torch_files.read_file(path))
  return {name: x.tensor for name, x in found.items() if x.shape}


@pytest.mark.parametrize('name', models.CASES)
def test_all_tensors_come_back_with_the_states_of_optimizers(name, tmp_path):
  program, _, meta = models.CASES[name]
  ends = '' if 'folder' in meta else '.pt'
  source, back = (tmp_path / f'{x}{ends}' for x in ('source', 'back'))
  models.made(name, source)
  models.taken(program, source, models.fields_of(name), tmp_path / 'run')
  models.given(program, tmp_path / 'run', back)
  there = tensors_in(source, tmp_path / 'a')
  again = tensors_in(back, tmp_path / 'b')
  assert there.keys() == again.keys()
  for tensor, x in there.items():
    assert again[tensor].numpy().tobytes() == x.numpy().tobytes(), tensor


@pytest.mark.parametrize('name', ['fb dot with itself', 'fb cat'])
@pytest.mark.parametrize(
  'placement',
  ['table_wise', 'table_row_wise', 'column_wise', 'grid', 'replicated'],
)
def test_tables_may_live_anywhere(placement, name, tmp_path):
  models.made(name, tmp_path / 'source.pt')
  fields = models.fields_of(name) | {'tables.placement': placement}
  models.taken('fb', tmp_path / 'source.pt', fields, tmp_path / 'run')
  models.given('fb', tmp_path / 'run', tmp_path / 'back.pt')
  there = tensors_in(tmp_path / 'source.pt', tmp_path)
  again = tensors_in(tmp_path / 'back.pt', tmp_path)
  assert there.keys() == again.keys()
  for tensor, x in there.items():
    assert again[tensor].numpy().tobytes() == x.numpy().tobytes(), tensor


@pytest.mark.slow
@pytest.mark.parametrize('name', models.CASES)
def test_the_program_loads_it_and_predicts_the_same(name, tmp_path):
  program, _, meta = models.CASES[name]
  if why := models.why_absent(program):
    pytest.skip(f'{why}; DLRM_JAX_PEER_PYTHON names a Python that has it')
  ends = '' if 'folder' in meta else '.pt'
  source, back = (tmp_path / f'{x}{ends}' for x in ('source', 'back'))
  models.made(name, source)
  models.taken(program, source, models.fields_of(name), tmp_path / 'run')
  models.given(program, tmp_path / 'run', back)
  inputs, held = models.random_inputs(name)
  told = json.dumps(models.meta_of(name))
  files = tmp_path / 'inputs.npz', tmp_path / 'outputs.npz'
  np.savez(files[0], meta=told, **held)
  models.peer(program, back, *files)
  with np.load(files[1]) as outputs:
    wanted = outputs['predictions']
  logits = models.logits(tmp_path / 'run', inputs).astype(np.float64)
  np.testing.assert_allclose(
    1 / (1 + np.exp(-logits)), wanted, rtol=0, atol=1e-6
  )
