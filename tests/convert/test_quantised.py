"""Quantised models of torchrec there and back.

The golden files are what torchrec 1.8.0 saves of `torchrec_dlrm_state_dict.pt`
once it has quantised it; `torchrec_quantised_predictions.npz` has what it
predicts with each, for the first inputs of `torchrec_dlrm.npz`.
"""

import json

import numpy as np
import pytest

from dlrm_jax.build.chosen import choose
from dlrm_jax.checkpoint.fits import leaves
from dlrm_jax.convert import torch_files
from dlrm_jax.convert.program import Setting
from dlrm_jax.convert.torchrec_quantised import BAGS, KERNELS
from dlrm_jax.errors import InputError
from dlrm_jax.quantize.model import quantized, write
from tests.convert import models

torch = pytest.importorskip('torch', reason='PyTorch is not installed')

FLOAT = models.GOLDENS / 'torchrec_dlrm_state_dict.pt'
KEPT = {
  'int8': ['int8'] * 5,
  'mixed': ['int8', 'int4', 'int2', 'float16', 'float32'],
  'inference': ['int4', 'int8', 'float16', 'int2', 'int8'],
  'apart': ['int8', 'int4', 'int2', 'float16', 'int8'],
}
"""The storage of each table in the golden files."""
DTYPES = {
  'int8': 'qint8',
  'int4': 'quint4x2',
  'int2': 'quint2x4',
  'float16': 'half',
  'bfloat16': 'float',
}
LINE = ('scale', 'bias')
COLUMNS = [f'C{i}' for i in range(1, 6)]


def golden(name):
  return models.GOLDENS / f'torchrec_quantised_{name}.pt'


TYPES = KERNELS + '0.weights_tys'


def table(i, ends=''):
  return f'{BAGS}t_cat_{i}.weight{ends}'


@pytest.fixture(scope='module')
def inputs():
  return models.Golden('torchrec_dlrm')


@pytest.fixture(scope='module')
def fields(inputs):
  return {'model.bottom': (32,), 'data.expected.hotness': inputs.hotness}


@pytest.fixture(scope='module', params=KEPT)
def converted(request, fields, tmp_path_factory):
  """(name of a golden file, our workdir, the lines)."""
  folder = tmp_path_factory.mktemp('quantised') / 'run'
  lines = models.taken('torchrec', golden(request.param), fields, folder)
  return request.param, folder, lines


@pytest.fixture(scope='module')
def floats(fields, tmp_path_factory):
  """A workdir of the file of float32."""
  folder = tmp_path_factory.mktemp('floats') / 'run'
  models.taken('torchrec', FLOAT, fields, folder)
  return folder


def read(path):
  """Tensors by name; those that share bytes are bytes."""
  found = torch_files.arrays_of(torch_files.read_file(path))
  return {name: x.tensor for name, x in found.items()}


def opened(folder):
  """The task of a workdir and its state for scoring."""
  chosen = choose(folder, 'best', models.DEFAULTS)
  with models.one_device():
    return chosen.run.task, chosen.state()


def storages_in(folder):
  task, _ = opened(folder)
  tables = [f.encoding.tables[0] for f in task.collection.features]
  return [table.storage.name for table in tables]


def kept_in(folder):
  """The arrays of the tables of a workdir, by name."""
  return {k: np.asarray(x) for k, x in leaves(opened(folder)[1].tables).items()}


def values_in(folder):
  """The values of the tables of a workdir, by name."""
  task, state = opened(folder)
  return {
    table.name: np.asarray(task.collection.read(state.tables, table.name))
    for table in task.collection.tables
  }


def logits_of(folder, inputs):
  task, state = opened(folder)
  with models.one_device():
    outputs = task.network.outputs(state.layers, state.tables, inputs)
  return np.asarray(outputs)[:, 0].astype(np.float64)


def quantise(folder, storages, output):
  """A workdir as `python -m dlrm_jax.quantize` writes it."""
  chosen = choose(folder, 'best', models.DEFAULTS)
  choice = dict(zip(COLUMNS, storages, strict=True))
  write(quantized(chosen, choice), output, chosen, models.DEFAULTS)


def assert_same_bytes(a, b, name):
  assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), name
  assert a.numpy().tobytes() == b.numpy().tobytes(), name


def test_predictions_are_those_of_the_program(converted, inputs):
  name, folder, _ = converted
  path = models.GOLDENS / 'torchrec_quantised_predictions.npz'
  with np.load(path) as file:
    wanted = file[f'torchrec_quantised_{name}']
  found = 1 / (1 + np.exp(-logits_of(folder, inputs.inputs)))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_tables_get_the_storages_of_the_file(converted):
  name, folder, lines = converted
  assert storages_in(folder) == KEPT[name]
  (line,) = (x for x in lines if x.startswith('tables keep the values'))
  assert f'{KEPT[name][0]} C1' in line


def test_there_and_back_tables_have_the_same_bytes(converted, tmp_path):
  name, folder, _ = converted
  lines = models.given('torchrec', folder, tmp_path / 'back.pt')
  there = read(golden(name))
  # As anyone loads it: nothing is allowed beside tensors.
  back = torch.load(tmp_path / 'back.pt', weights_only=True)
  names = [x for x in there if KERNELS not in x and 'weight_q' not in x]
  assert list(back) == names
  for tensor in names:
    if f'{tensor}_qscale' in there:
      parts = [there[f'{tensor}_q{x}'].view(torch.uint8) for x in LINE]
      joined = torch.cat([*parts, there[tensor]], 1)
      width = joined.shape[1]
      assert not back[tensor][:, width:].any()
      assert joined.equal(back[tensor][:, :width])
    else:
      assert_same_bytes(there[tensor], back[tensor], tensor)
  assert any('all rows have the same values' in line for line in lines)


def test_bytes_without_classes_are_known_by_their_zeros(fields, tmp_path):
  torch.save(read(golden('mixed')), tmp_path / 'x.pt')
  models.taken('torchrec', tmp_path / 'x.pt', fields, tmp_path / 'run')
  assert storages_in(tmp_path / 'run') == KEPT['mixed']


@pytest.mark.parametrize('name', ['apart', 'inference'])
def test_what_wraps_a_quantised_model_is_left_out(name, fields, tmp_path):
  held = {f'module.model.{k}': x for k, x in read(golden(name)).items()}
  torch.save(held, tmp_path / 'x.pt')
  models.taken('torchrec', tmp_path / 'x.pt', fields, tmp_path / 'run')
  assert storages_in(tmp_path / 'run') == KEPT[name]


def test_a_quantised_workdir_goes_there_and_back(floats, fields, tmp_path):
  storages = ['int8', 'int4', 'int2', 'float16', 'bfloat16']
  quantise(floats, storages, tmp_path / 'a')
  said = '\n'.join(models.given('torchrec', tmp_path / 'a', tmp_path / 'a.pt'))
  for words in (
    'quantised tables: int8 C1; int4 C2; int2 C3; float16 C4; float32 C5',
    'scale and bias are float16 there: 7 rows have other values, by at most ',
    "per_table_weight_dtype={'t_cat_1': torch.quint4x2, 't_cat_2': torch.quin",
  ):
    assert words in said
  held = torch.load(tmp_path / 'a.pt', weights_only=True)
  for i, width in enumerate([16, 16, 16, 16, 32]):
    assert held[table(i)].shape == (models.ROWS[i], width)
    assert held[table(i)].dtype == torch.uint8
  models.taken('torchrec', tmp_path / 'a.pt', fields, tmp_path / 'b')
  assert storages_in(tmp_path / 'b') == [*storages[:4], 'float32']
  a, b = kept_in(tmp_path / 'a'), kept_in(tmp_path / 'b')
  for name, x in a.items():
    if 'bfloat16' not in name and name.rpartition('_')[2] != 'int8.line':
      np.testing.assert_array_equal(x, b[name], name)
  values = [values_in(tmp_path / x)['C5'] for x in 'ab']
  np.testing.assert_array_equal(*values)
  models.given('torchrec', tmp_path / 'b', tmp_path / 'b.pt')
  again = torch.load(tmp_path / 'b.pt', weights_only=True)
  for name, x in held.items():
    assert_same_bytes(x, again[name], name)


def test_rounded_rows_are_as_near_as_the_line_says(floats, fields, tmp_path):
  quantise(floats, ['int8'] * 5, tmp_path / 'a')
  lines = models.given('torchrec', tmp_path / 'a', tmp_path / 'a.pt')
  (said,) = (x for x in lines if x.startswith('int8:'))
  most = float(said.rpartition(' ')[2])
  models.taken('torchrec', tmp_path / 'a.pt', fields, tmp_path / 'b')
  a, b = values_in(tmp_path / 'a'), values_in(tmp_path / 'b')
  error = max(np.abs(a[t] - b[t]).max() for t in a)
  assert most == pytest.approx(float(error), rel=0.05)
  assert 0 < most < 1e-3


@pytest.mark.parametrize('storage', ['int8', 'bfloat16'])
def test_a_file_of_float32_is_rounded_as_the_config_says(
  storage, floats, fields, tmp_path
):
  rounded = fields | {'tables.storage': storage}
  models.taken('torchrec', FLOAT, rounded, tmp_path / 'run')
  quantise(floats, [storage] * 5, tmp_path / 'wanted')
  found, wanted = kept_in(tmp_path / 'run'), kept_in(tmp_path / 'wanted')
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_array_equal(found[name], x, name)


def test_a_folder_and_the_other_program_get_float32(floats, fields, tmp_path):
  quantise(floats, ['int8'] * 5, tmp_path / 'a')
  for program, output in (('torchrec', 'folder'), ('fb', 'fb.pt')):
    lines = models.given(program, tmp_path / 'a', tmp_path / output)
    assert 'tables in int8 are float32 there' in lines
  found = read(tmp_path / 'fb.pt')['state_dict.emb_l.0.weight'].numpy()
  np.testing.assert_array_equal(found, values_in(tmp_path / 'a')['C1'])


def test_states_of_optimizers_of_quantised_tables(fields, tmp_path):
  adagrad = fields | models.ADAGRADS | {'tables.storage': 'int8'}
  models.taken('torchrec', FLOAT, adagrad, tmp_path / 'a')
  lines = models.given('torchrec', tmp_path / 'a', tmp_path / 'folder')
  assert 'optimizer of tables: the sums of squares of Adagrad written' in lines
  lines = models.given('torchrec', tmp_path / 'a', tmp_path / 'a.pt')
  assert any('a .pt file has the model alone' in line for line in lines)
  quantise(tmp_path / 'a', ['int4'] * 5, tmp_path / 'b')
  lines = models.given('torchrec', tmp_path / 'b', tmp_path / 'b.pt')
  assert any(line.endswith('as the checkpoint has none') for line in lines)


def test_the_config_says_what_bytes_cannot(tmp_path):
  """Rows of four values have as many bytes in int8 as in float16."""
  fields = models.fields_of('torchrec DLRM') | {'model.dim': 4}
  program = models.PROGRAMS['torchrec']
  tensors = {
    match.name: torch.rand(match.shape)
    for match in program.matches(models.network_of(fields))
  }
  content = program.content(tensors, {}, Setting(0.1, 0, 0.75))
  torch.save(content, tmp_path / 'floats.pt')
  models.taken('torchrec', tmp_path / 'floats.pt', fields, tmp_path / 'a')
  for storage in ('int8', 'float16'):
    folder, file = tmp_path / storage, tmp_path / f'{storage}.pt'
    quantise(tmp_path / 'a', [storage] * 5, folder)
    models.given('torchrec', folder, file)
    with pytest.raises(InputError, match='rows of 16 bytes may be int8 or fl'):
      models.taken('torchrec', file, fields, tmp_path / 'no')
    named = fields | {'tables.storage': storage}
    models.taken('torchrec', file, named, tmp_path / f'{storage} back')
    assert storages_in(tmp_path / f'{storage} back') == [storage] * 5


def replaced(i, tensor):
  return lambda held: held.update({table(i): tensor})


def nan_scale(held):
  held[table(1)][5, :2] = torch.tensor([0, 0x7E], dtype=torch.uint8)


def without_bottom(held):
  for name in [x for x in held if x.startswith('dense_arch')]:
    del held[name]


def same(held):
  del held


BYTES = torch.ones(100, 40, dtype=torch.uint8)
WRONG = {
  'rows of no storage': (
    'mixed',
    replaced(0, BYTES[:7, :5].clone()),
    {},
    [
      'x.pt: ',
      't_cat_0.weight has shape [7, 5]',
      '6 in int2, 8 in int4, 12 in',
    ],
  ),
  'numbers where zeros should be': (
    'mixed',
    replaced(4, BYTES[:57].clone()),
    {},
    ['t_cat_4.weight has shape [57, 40]', '32 in float32 bytes, and then zero'],
  ),
  'three axes': (
    'mixed',
    replaced(1, BYTES[:31, :8].reshape(31, 2, 4).clone()),
    {},
    ['t_cat_1.weight is uint8, quantised, of shape [31, 2, 4]', '[R, W]'],
  ),
  'a scale that is NaN': (
    'int8',
    nan_scale,
    {},
    ['t_cat_1.weight: row 5 has scale nan and bias', 'expected finite numbers'],
  ),
  'no bottom MLP': (
    'int8',
    without_bottom,
    {},
    ['t_cat_0.weight, quantised, and no dense_arch.model._mlp.0', 'whole DLRM'],
  ),
  'no top MLP': (
    'int8',
    lambda held: held.pop('over_arch.model.1.bias'),
    {},
    ['x.pt: has no over_arch.model.1.bias'],
  ),
  'no biases': (
    'apart',
    lambda held: held.pop(table(2, '_qbias')),
    {},
    ['x.pt: has ', 't_cat_2.weight_qscale and no', 't_cat_2.weight_qbias'],
  ),
  'biases of another dtype': (
    'apart',
    lambda held: held.update({table(2, '_qbias'): torch.zeros(100, 1)}),
    {},
    ['t_cat_2.weight_qbias is float32 of shape [100, 1]', 'float16 of shape'],
  ),
  'codes of another width, scales apart': (
    'apart',
    replaced(2, BYTES[:, :1].clone()),
    {},
    ['t_cat_2.weight has shape [100, 1]', 'less 4 where scale and bias lie'],
  ),
  'a type that is not known': (
    'inference',
    lambda held: held[TYPES].fill_(7),
    {},
    ['t_cat_0.weight is of type 7 by weights_tys', '2 (int8)'],
  ),
  'another type than the bytes': (
    'inference',
    lambda held: held[TYPES].fill_(0),
    {},
    ['t_cat_0.weight has shape [7, 16] in float32; rows of 8 values'],
  ),
  'another storage in the config': (
    'mixed',
    same,
    {'tables.features': {'C2': {'storage': 'int2'}}},
    [
      'config.tables.storage (feature C2) is int2',
      'is int4 or int8 or float16',
    ],
  ),
  'columns in blocks': (
    'int8',
    same,
    {'tables.placement': 'column_wise', 'tables.columns': 2},
    ['config.tables.placement (feature C1) cuts the columns', 'row_wise'],
  ),
  'another width in the config': (
    'int8',
    same,
    {'model.dim': 16},
    ['t_cat_0.weight has shape [7, 8]', '[7, 16]', '--config.model.dim=8'],
  ),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_file_that_cannot_be_taken_is_refused(name, fields, tmp_path):
  file, change, config, words = WRONG[name]
  held = read(golden(file))
  change(held)
  torch.save(held, tmp_path / 'x.pt')
  with pytest.raises(InputError) as error:
    models.taken(
      'torchrec', tmp_path / 'x.pt', fields | config, tmp_path / 'run'
    )
  line = str(error.value)
  assert '\n' not in line
  for word in words:
    assert word in line, line
  assert [x.name for x in tmp_path.iterdir()] == ['x.pt']


def test_a_tensor_that_shares_no_bytes_is_refused():
  shared, *_ = torch_files._sharing()
  tensor = torch.Tensor._make_wrapper_subclass(shared, (2, 4))
  with pytest.raises(InputError, match=r'a\.b: a UInt4Tensor without bytes'):
    torch_files.arrays_of({'a': {'b': tensor}})


def test_quantised_tables_in_a_folder_are_refused(fields, tmp_path):
  torch_files.write_folder(read(golden('int8')), tmp_path / 'folder')
  with pytest.raises(InputError, match=r'\[R, W\], in a \.pt file of torch'):
    models.taken('torchrec', tmp_path / 'folder', fields, tmp_path / 'run')


def test_tables_with_columns_in_blocks_are_not_given(fields, tmp_path):
  blocks = {'tables.placement': 'column_wise', 'tables.columns': 2}
  for storage in ('int8', 'float16'):
    run = tmp_path / storage
    config = fields | blocks | {'tables.storage': storage}
    models.taken('torchrec', FLOAT, config, run)
  models.given('torchrec', tmp_path / 'float16', tmp_path / 'float16.pt')
  with pytest.raises(InputError, match='cuts the columns of a table of int8'):
    models.given('torchrec', tmp_path / 'int8', tmp_path / 'int8.pt')


def test_values_that_torchrec_cannot_keep_are_refused(fields, tmp_path):
  held = read(FLOAT)
  held[table(2)][17, 3] = 1e6
  torch.save(held, tmp_path / 'x.pt')
  int8 = fields | {'tables.storage': 'int8'}
  models.taken('torchrec', tmp_path / 'x.pt', int8, tmp_path / 'run')
  with pytest.raises(InputError, match='table C3, row 17: a value is 1e'):
    models.given('torchrec', tmp_path / 'run', tmp_path / 'out.pt')
  assert not (tmp_path / 'out.pt').exists()


def predicted(source, inputs, told, tmp_path):
  """What torchrec predicts with a file; `told` says how it is quantised."""
  if why := models.why_absent('torchrec'):
    pytest.skip(f'{why}; DLRM_JAX_PEER_PYTHON names a Python that has it')
  sizes = {'rows': models.ROWS, 'dim': 8, 'dense': 13}
  layers = {'bottom': [32, 8], 'top': [24, 12, 1]}
  held = {'dense': inputs.dense}
  for t in range(len(models.ROWS)):
    held[f'indices{t}'], held[f'offsets{t}'] = (
      inputs.indices[t],
      inputs.offsets[t],
    )
  files = tmp_path / 'inputs.npz', tmp_path / 'outputs.npz'
  np.savez(files[0], meta=json.dumps(sizes | layers | told), **held)
  models.peer('torchrec', source, *files)
  with np.load(files[1]) as outputs:
    return outputs['predictions']


@pytest.mark.slow
@pytest.mark.parametrize(
  'storages',
  [
    ['int8'] * 5,
    ['int4'] * 5,
    ['int2'] * 5,
    ['float16'] * 5,
    ['int8', 'int4', 'int2', 'float16', 'bfloat16'],
  ],
  ids=','.join,
)
def test_the_program_loads_ours_and_predicts_the_same(
  storages, floats, fields, inputs, tmp_path
):
  quantise(floats, storages, tmp_path / 'a')
  models.given('torchrec', tmp_path / 'a', tmp_path / 'a.pt')
  told = {'dtypes': [DTYPES[x] for x in storages]}
  wanted = predicted(tmp_path / 'a.pt', inputs, told, tmp_path)
  models.taken('torchrec', tmp_path / 'a.pt', fields, tmp_path / 'b')
  # As they are there, and as they were before int8 was rounded.
  rounding = 3e-5 if 'int8' in storages else 1e-6
  for folder, near in ((tmp_path / 'b', 1e-6), (tmp_path / 'a', rounding)):
    found = 1 / (1 + np.exp(-logits_of(folder, inputs.inputs)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=near)


@pytest.mark.slow
@pytest.mark.parametrize(
  'how', ['embeddings', 'inference', 'apart', 'unaligned']
)
def test_what_the_program_quantises_predicts_the_same_here(
  how, fields, inputs, tmp_path
):
  storages = ['int4', 'float16', 'int8', 'int2', 'int8']
  told = {'dtypes': [DTYPES[x] for x in storages], 'how': how}
  told['save'] = str(tmp_path / 'x.pt')
  wanted = predicted(FLOAT, inputs, told, tmp_path)
  models.taken('torchrec', tmp_path / 'x.pt', fields, tmp_path / 'run')
  assert storages_in(tmp_path / 'run') == storages
  found = 1 / (1 + np.exp(-logits_of(tmp_path / 'run', inputs.inputs)))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
