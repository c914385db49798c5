"""What a user can get wrong: one clear line, exit status not 0, no trace.

Every case is a command as it would be typed, and words that its message must
have: where it is, what was found, what to do.
"""

import gzip
import importlib
import json
import shutil
import signal
import subprocess
import sys

import pytest

from tests import commands

GOOD = '\t'.join(['1', *['3'] * 13, *['68fd1e64'] * 26])


def row(column, value):
  """A good row but for one column, counted from 1."""
  cells = GOOD.split('\t')
  cells[column - 1] = value
  return '\t'.join(cells)


def log(*bad):
  """40 good rows and then bad ones, line 41 on."""
  return '\n'.join([GOOD] * 40 + list(bad)) + '\n'


MISSPELT = """from tests import small
def get_config():
  config = small.get_config()
  config.{}
  return config
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with good and bad files, a prepared set and a trained run."""
  folder = tmp_path_factory.mktemp('mistakes')
  files = {
    'good.txt': log(),
    'columns.txt': log('1\t2\t3'),
    'label.txt': log(row(1, '2')),
    'integer.txt': log(row(5, '1.5')),
    'range.txt': log(row(2, '99999999999')),
    'hex.txt': log(row(20, 'xyz')),
    'empty.txt': '',
    'settings.py': 'def get_config():\n  return nonsense\n',
    'misspelt.py': MISSPELT.format('tables.encodng = "hashed"'),
    'inner.py': MISSPELT.format('tables.features.C1 = {"encodng": "robe"}'),
  }
  for name, text in files.items():
    (folder / name).write_text(text)
  (folder / 'utf8.txt').write_bytes(log().encode() + b'1\t\xff\xfe\n')
  whole = gzip.compress(log(*[row(2, str(i)) for i in range(4000)]).encode())
  (folder / 'cut.gz').write_bytes(whole[: len(whole) // 2])
  (folder / 'notgzip.gz').write_bytes(b'plain text\n')
  prepared = folder / 'prepared'
  ok(prepare(f'--input={folder}/good.txt', f'--output={prepared}'), folder)
  half = f'--output={folder}/half', '--splits=train=0.5,test=0.5'
  ok(prepare(f'--input={folder}/good.txt', *half), folder)
  ok(train(f'--workdir={folder}/run', *SMALL), folder)
  (folder / 'fresh').mkdir()
  for name in ('config.json', 'data.json'):
    text = (folder / 'run' / name).read_text()
    (folder / 'fresh' / name).write_text(text)
  edited = folder / 'edited'
  shutil.copytree(folder / 'run', edited)
  config = json.loads((edited / 'config.json').read_text())
  config['model']['dim'] = 8
  (edited / 'config.json').write_text(json.dumps(config))
  shutil.copytree(folder / 'run', folder / 'normal')
  config['model'] |= {'dim': 4, 'norm': 'layer'}
  (folder / 'normal' / 'config.json').write_text(json.dumps(config))
  shutil.copytree(folder / 'run', folder / 'lost')
  (folder / 'lost' / 'config.json').unlink()
  damaged = folder / 'damaged'
  damaged.mkdir()
  (damaged / 'metadata.json').write_text('{"format"')
  golden = commands.ROOT / 'tests' / 'goldens' / 'fb_checkpoint.pt'
  (folder / 'cut.pt').write_bytes(golden.read_bytes()[:9000])
  (folder / 'file').write_text('not a folder')
  ok(export(f'--workdir={folder}/run', f'--output={folder}/export'), folder)
  for name, change in (
    ('newer', lambda x: x.replace('"format": 1', '"format": 2')),
    ('halved', lambda x: x[: len(x) // 2]),
  ):
    shutil.copytree(folder / 'export', folder / name)
    path = folder / name / 'model.json'
    path.write_text(change(path.read_text()))
  shutil.copytree(folder / 'export', folder / 'shortened')
  table = next((folder / 'shortened' / 'tables').iterdir())
  table.write_bytes(table.read_bytes()[:-1])
  return folder


def prepare(*flags):
  return ['-m', 'dlrm_jax.prepare', 'criteo', *flags]


def train(*flags):
  return ['train.py', *flags]


def evaluate(*flags):
  return ['-m', 'dlrm_jax.evaluate', *flags]


def predict(*flags):
  return ['-m', 'dlrm_jax.predict', *flags]


def export(*flags):
  return ['-m', 'dlrm_jax.export', *flags]


def quantize(*flags):
  return ['-m', 'dlrm_jax.quantize', *flags]


def convert(*flags):
  return ['-m', 'dlrm_jax.convert', *flags]


def importance(*flags):
  return ['-m', 'dlrm_jax.importance', *flags]


def plan(*flags):
  return ['-m', 'dlrm_jax.plan', *flags]


def colocate(*flags):
  return ['-m', 'dlrm_jax.colocate', *flags]


def load_test(*flags):
  return ['-m', 'dlrm_jax.load_test', *flags]


def sweep(*flags):
  return ['-m', 'dlrm_jax.sweep', *flags]


def tradeoff(*flags):
  return ['-m', 'dlrm_jax.tradeoff', *flags]


SMALL = (
  '--config=tests/small.py',
  '--config.train.steps=2',
)
SYNTHETIC = ('--config=tests/small.py', '--workdir={place}/new')
KAGGLE = (
  '--config=configs/criteo_kaggle.py',
  '--workdir={place}/new',
  '--config.data.dir={place}/prepared',
)
OUT = '--output={place}/out'
UNDER_FILE = ['={place}/file/', 'cannot be made here: {place}/file is not a']
SCORED = '--data={place}/good.txt', '--output={place}/out.csv'
FB_FILE = (
  '--input=tests/goldens/fb_checkpoint.pt',
  '--config=configs/default.py',
)
THRESHOLD = ('--config.tables.threshold=0',)
QUOTIENTS = (*THRESHOLD, '--config.tables.encoding=quotient_remainder')

CASES = {
  # Raw files.
  'wrong number of columns': (
    prepare('--input={place}/columns.txt', OUT),
    ['columns.txt', '41', '3', '40', '--on_bad_row=skip'],
  ),
  'label is not 0 or 1': (
    prepare('--input={place}/label.txt', OUT),
    ['label.txt', '41', "'2'"],
  ),
  'not an integer': (
    prepare('--input={place}/integer.txt', OUT),
    ['integer.txt', '41', 'I4', "'1.5'"],
  ),
  'integer out of range': (
    prepare('--input={place}/range.txt', OUT),
    ['range.txt', '41', 'I1', '99999999999'],
  ),
  'category is not hexadecimal': (
    prepare('--input={place}/hex.txt', OUT),
    ['hex.txt', '41', 'C6', "'xyz'"],
  ),
  'invalid UTF-8': (
    prepare('--input={place}/utf8.txt', OUT),
    ['utf8.txt', '41'],
  ),
  'truncated gzip': (prepare('--input={place}/cut.gz', OUT), ['cut.gz']),
  'not a gzip': (prepare('--input={place}/notgzip.gz', OUT), ['notgzip.gz']),
  'empty file': (prepare('--input={place}/empty.txt', OUT), ['empty.txt']),
  'missing file': (prepare('--input={place}/no.txt', OUT), ['no.txt']),
  'folder for a file': (prepare('--input={place}', OUT), ['{place}']),
  # Options of prepare.
  'output is there': (
    prepare('--input={place}/good.txt', '--output={place}/prepared'),
    ['prepared', '--overwrite'],
  ),
  'shares do not add up': (
    prepare('--input={place}/good.txt', OUT, '--splits=train=0.5,test=0.4'),
    ['--splits', '0.9'],
  ),
  'no split train': (
    prepare('--input={place}/good.txt', OUT, '--splits=test=1'),
    ['train'],
  ),
  'min_count below 1': (
    prepare('--input={place}/good.txt', OUT, '--min_count=0'),
    ['--min_count'],
  ),
  'vocabulary and hash at once': (
    prepare('--input={place}/good.txt', OUT, '--min_count=2', '--hash_rows=9'),
    ['--min_count', '--hash_rows'],
  ),
  'unknown option of prepare': (
    prepare('--input={place}/good.txt', OUT, '--vocab=3'),
    ['--vocab=3'],
  ),
  # The command line of train.py.
  'a workdir whose path is a pattern': (
    train('--config=tests/small.py', '--workdir={place}/new/a[1]'),
    ['{place}/new/a[1]', '*, ? or [', 'another --workdir'],
  ),
  'no config': (train('--workdir={place}/new'), ['--config']),
  'config file is missing': (
    train('--config=configs/no.py', '--workdir={place}/new'),
    ['configs/no.py'],
  ),
  'config file fails': (
    train('--config={place}/settings.py', '--workdir={place}/new'),
    ['nonsense'],
  ),
  'unknown variant': (
    train('--config=configs/criteo_kaggle.py:bst', '--workdir={place}/new'),
    ['bst', 'best'],
  ),
  'unknown field': (
    train(*SYNTHETIC, '--config.model.dims=3'),
    ['dims', 'dim'],
  ),
  'unknown field in a file': (
    train('--config={place}/misspelt.py', '--workdir={place}/new'),
    ['misspelt.py', 'config.tables.encodng', 'did you mean encoding?'],
  ),
  'unknown field in the file of a plan': (
    plan('--config={place}/misspelt.py'),
    ['misspelt.py', 'config.tables.encodng', 'did you mean encoding?'],
  ),
  'unknown field in the file of a comparison': (
    tradeoff('--config={place}/misspelt.py', '--workdir={place}/new'),
    ['misspelt.py', 'config.tables.encodng', 'did you mean encoding?'],
  ),
  'unknown field in a grid': (
    sweep(*SYNTHETIC, '--grid=model.dims=[4,8]'),
    ['--grid', 'config.model.dims', 'did you mean dim?'],
  ),
  'unknown field of a feature in a file': (
    train('--config={place}/inner.py', '--workdir={place}/new'),
    ['config.tables.features.C1.encodng', 'encoding'],
  ),
  'text for a number': (
    train(*SYNTHETIC, '--config.train.batch_size=many'),
    ['config.train.batch_size', 'many'],
  ),
  'unknown flag': (train(*SYNTHETIC, '--batch_size=3'), ['batch_size']),
  'a profile of no steps': (
    train(*SYNTHETIC, '--profile=0'),
    ['--profile=0', '1 to 1,000'],
  ),
  'a profile of fewer than no steps': (
    train(*SYNTHETIC, '--profile=-5'),
    ['--profile=-5', '1 to 1,000'],
  ),
  'a profile of many steps': (
    train(*SYNTHETIC, '--profile=many'),
    ['--profile=many', 'whole number'],
  ),
  'a profile where a file is': (
    train(*SMALL, '--workdir={place}/file', '--profile=2'),
    ['{place}/file', '--workdir'],
  ),
  # Values of the config.
  'unknown interaction': (
    train(*SYNTHETIC, '--config.model.dlrm.interaction=dott'),
    ['config.model.dlrm.interaction', 'dott', 'dot_itself'],
  ),
  'unknown optimizer': (
    train(*SYNTHETIC, '--config.optimizer.name=rowwise_adagrad'),
    ['config.optimizer.name', 'rowwise_adagrad', 'adagrad'],
  ),
  'unknown dtype': (
    train(*SYNTHETIC, '--config.model.compute_dtype=float16'),
    ['config.model.compute_dtype', 'bfloat16'],
  ),
  'layers that can only score': (
    train(*SYNTHETIC, '--config.model.compute_dtype=int8'),
    ['config.model.compute_dtype is int8', 'python -m dlrm_jax.quantize'],
  ),
  'a forecast of layers that can only score': (
    plan('--config=synthetic', '--config.model.compute_dtype=int8'),
    ['config.model.compute_dtype is int8', 'python -m dlrm_jax.quantize'],
  ),
  'unknown loss': (
    train(*SYNTHETIC, '--config.train.loss=hinge'),
    ['config.train.loss', 'hinge', 'bce'],
  ),
  'batch does not fit the lanes': (
    train(*SYNTHETIC, '--config.train.batch_size=100'),
    ['config.train.batch_size 100', 'data.lanes=8', '96 and 104'],
  ),
  'micro-batches do not fill the batch': (
    train(*SYNTHETIC, '--config.train.micro_batch=100'),
    ['config.train.micro_batch is 100', 'batch_size=', 'divisor'],
  ),
  'a micro-batch of less than nothing': (
    train(*SYNTHETIC, '--config.train.micro_batch=-1'),
    ['config.train.micro_batch', '-1'],
  ),
  # Models and how they are trained.
  'unknown model': (
    train(*SYNTHETIC, '--config.model.name=deep_fm'),
    ['config.model.name', 'deep_fm', 'deepfm'],
  ),
  'a model of pairs for other data': (
    train(*SYNTHETIC, '--config.model.name=neumf'),
    ['config.model.name', 'neumf', 'two sparse features'],
  ),
  'a dropout of everything': (
    train(*SYNTHETIC, '--config.model.dropout=1.0'),
    ['config.model.dropout', '1.0', 'less than 1'],
  ),
  'no branches': (
    train(*SYNTHETIC, '--config.model.branches=0'),
    ['config.model.branches', '0', 'at least 1'],
  ),
  'batch normalisation in micro-batches': (
    train(
      *SYNTHETIC, '--config.model.norm=batch', '--config.train.micro_batch=128'
    ),
    ['config.train.micro_batch', '128', 'config.model.norm is batch'],
  ),
  'pruning of all weights': (
    train(*SYNTHETIC, '--config.train.pruning.sparsity=1.0'),
    ['config.train.pruning.sparsity', '1.0', 'less than 1'],
  ),
  'a block that is none': (
    train(
      *SYNTHETIC,
      '--config.train.pruning.sparsity=0.5',
      '--config.train.pruning.block=8by1',
    ),
    ['config.train.pruning.block', "'8by1'", 'as in 8x1'],
  ),
  'pruning that training does not reach': (
    train(
      *SYNTHETIC,
      '--config.train.pruning.sparsity=0.5',
      '--config.train.pruning.steps=999999',
    ),
    ['config.train.pruning ends with update 1,000,001', 'train longer'],
  ),
  'a sparse kernel in training': (
    train(
      *SYNTHETIC, '--config.model.sparse=("model/top/dense_0/kernel=1x1",)'
    ),
    ['config.model.sparse', 'for scoring', 'python -m dlrm_jax.quantize'],
  ),
  'a rate that grows on a plateau': (
    train(
      *SYNTHETIC,
      '--config.train.plateau.patience=1',
      '--config.train.plateau.factor=2.0',
    ),
    ['config.train.plateau.factor', '2.0', 'between 0 and 1'],
  ),
  'a norm below nothing': (
    train(*SYNTHETIC, '--config.train.clip=-1.0'),
    ['config.train.clip', '-1.0', 'at least 0'],
  ),
  'a dense update of rows that are elsewhere': (
    train(
      *SYNTHETIC,
      '--config.tables.update=dense',
      '--config.tables.placement=row_wise',
    ),
    ['config.tables.update', 'row_wise', 'auto or replicated'],
  ),
  'a dense update of a large table': (
    plan(
      *('--config=configs/criteo_kaggle.py', '--config.tables.update=dense'),
    ),
    ['feature C3', '10,131,227 x 16', '16,777,216', 'sparse'],
  ),
  'a start from what is no workdir': (
    train(*SYNTHETIC, '--config.train.init_from={place}/prepared'),
    ['prepared', 'config.train.init_from'],
  ),
  'a start from a run without a checkpoint': (
    train(*SYNTHETIC, '--config.train.init_from={place}/fresh'),
    ['config.train.init_from={place}/fresh', 'no checkpoint'],
  ),
  # Sizes of synthetic data.
  'tables of no rows': (
    train(*SYNTHETIC, '--config.data.synthetic.size=0.01'),
    ['size 0.01', 'feature C1', 'rows is 0', '4 or more'],
  ),
  # Encodings.
  'too few rows to tell ids apart': (
    train(*SYNTHETIC, *QUOTIENTS, '--config.tables.rows=3'),
    ['feature C1', 'quotient_remainder', '12 parameters', 'rows'],
  ),
  'remainders that are not coprime': (
    train(
      *SYNTHETIC,
      *THRESHOLD,
      '--config.tables.encoding=chinese_remainder',
      '--config.tables.buckets=(10,6)',
    ),
    ['feature C1', 'chinese_remainder', '(10, 6)', 'common divisor 2'],
  ),
  'negative epochs': (
    train(*SYNTHETIC, '--config.train.epochs=-1.0', '--config.train.steps=0'),
    ['config.train.epochs', '-1.0'],
  ),
  'width of no neurons': (
    train(*SYNTHETIC, '--config.model.top=(8,0)'),
    ['config.model.top', '(8, 0)'],
  ),
  'decay before the warm-up ends': (
    train(
      *SYNTHETIC,
      '--config.optimizer.warmup_steps=50',
      '--config.optimizer.decay_start=10',
      '--config.optimizer.decay_steps=10',
    ),
    ['optimizer', 'decay_start', '10', '50'],
  ),
  'negative learning rate': (
    train(*SYNTHETIC, '--config.table_optimizer.learning_rate=-0.1'),
    ['table_optimizer', 'learning_rate', '-0.1'],
  ),
  'epochs are not a number': (
    train(*SYNTHETIC, '--config.train.epochs=nan', '--config.train.steps=0'),
    ['config.train.epochs', 'nan'],
  ),
  'seed beyond 64 bits': (
    train(*SYNTHETIC, '--config.seed=99999999999999999999'),
    ['config.seed', '99999999999999999999'],
  ),
  'a feature without fields': (
    train(*SYNTHETIC, "--config.tables.features={'C1':'hashed'}"),
    ['config.tables.features.C1', "'hashed'"],
  ),
  'dashes forgotten': (
    train(*SYNTHETIC, 'config.train.steps=3'),
    ['config.train.steps=3', '--'],
  ),
  'empty workdir': (
    train('--config=tests/small.py', '--workdir='),
    ['--workdir=DIR'],
  ),
  'patience without validation': (
    train(
      *('--config=configs/criteo_kaggle.py', '--workdir={place}/new'),
      *('--config.data.dir={place}/half', '--config.train.patience=1'),
      '--config.train.batch_size=8',
    ),
    ['config.train.patience', 'validation'],
  ),
  # Placements.
  'unknown placement': (
    train(*SYNTHETIC, '--config.tables.placement=rowwise'),
    ['config.tables.placement', "'rowwise'", 'row_wise'],
  ),
  'a state that can not be kept so': (
    train(*SYNTHETIC, '--config.tables.state=int8'),
    ['config.tables.state (feature C1)', "'int8'", 'float32, bfloat16'],
  ),
  'no shards': (
    train(*SYNTHETIC, '--config.tables.shards=0'),
    ['config.tables.shards', '0', 'at least 1'],
  ),
  'dealt over more shards than there are': (
    train(
      *SYNTHETIC,
      '--config.tables.placement=table_row_wise',
      '--config.tables.spread=9',
    ),
    ['config.tables.spread', '9', 'config.tables.shards=8'],
  ),
  'a width that can not be cut': (
    train(
      *SYNTHETIC,
      "--config.tables.features={'C1':{'placement':'column_wise','columns':3}}",
    ),
    ['config.tables.columns (feature C1)', '3', 'width 4'],
  ),
  'a shared table in two places': (
    train(
      *SYNTHETIC,
      "--config.tables.features={'C1':{'table':'t','placement':'row_wise'},"
      "'C2':{'table':'t','placement':'table_wise'}}",
    ),
    ['C1', 'C2', 'table t', 'same placement'],
  ),
  'memory that is no size': (
    train(*SYNTHETIC, '--config.tables.memory=16 gigs'),
    ['config.tables.memory', '16 gigs', '16GB'],
  ),
  'negative steps between averages': (
    train(*SYNTHETIC, '--config.tables.average_every=-1'),
    ['config.tables.average_every', '-1'],
  ),
  # Plans.
  'a plan without a config': (plan('--devices=8'), ['--config']),
  'a plan of unknown sizes': (
    plan('--config=configs/movielens.py'),
    ['config.data.expected', '--config.data.dir'],
  ),
  'a plan for no devices': (
    plan('--config=tests/small.py', '--devices=0'),
    ['--devices is 0; expected 1 or more'],
  ),
  'a plan into a folder that is not there': (
    plan('--config=tests/small.py', '--json={place}/no/plan.json'),
    ['--json={place}/no/plan.json'],
  ),
  'sizes and hotness of different lengths': (
    plan(
      '--config=configs/criteo_mlperf.py:multihot',
      '--config.data.expected.hotness=(1,2)',
    ),
    ['config.data.expected.hotness', '2', '26'],
  ),
  # Data and workdir.
  'no prepared set named': (
    train('--config=configs/criteo_kaggle.py', '--workdir={place}/new'),
    ['config.data.dir', 'dlrm_jax.prepare'],
  ),
  'not a prepared set': (
    train(*KAGGLE[:2], '--config.data.dir={place}/nowhere'),
    ['nowhere', 'dlrm_jax.prepare'],
  ),
  'damaged prepared set': (
    train(*KAGGLE[:2], '--config.data.dir={place}/damaged'),
    ['damaged'],
  ),
  'a workdir of another config': (
    train(*SMALL, '--workdir={place}/run', '--config.model.dim=8'),
    ['model.dim was 4, is 8'],
  ),
  'workdir is a file': (
    train(*SMALL, '--workdir={place}/file'),
    ['{place}/file'],
  ),
  # Evaluation.
  'evaluate without a workdir': (evaluate(), ['--workdir']),
  'a batch of negative size': (
    evaluate('--workdir={place}/run', '--batch_size=-5'),
    ['batch size -5'],
  ),
  'JSON into a folder that is not there': (
    evaluate('--workdir={place}/run', '--json={place}/no/r.json'),
    ['--json={place}/no/r.json'],
  ),
  'evaluate what is no workdir': (
    evaluate('--workdir={place}/prepared'),
    ['prepared', 'config.json'],
  ),
  'evaluate before any checkpoint': (
    evaluate('--workdir={place}/fresh'),
    ['no checkpoint'],
  ),
  'a checkpoint of other tables than the config has': (
    evaluate('--workdir={place}/edited'),
    ['table C1', '50 x 4 in the checkpoint', '50 x 8', 'config.model.dim'],
  ),
  'a workdir that lost its config': (
    train('--config=tests/small.py', '--workdir={place}/lost'),
    ['lost', 'config.json', '--workdir'],
  ),
  'weights of labels that the data does not have': (
    train(*SYNTHETIC, '--config.train.label_weights=(1.0, 2.0)'),
    ['config.train.label_weights', '(1.0, 2.0)', 'each label (click)'],
  ),
  'an objective within groups that the data does not have': (
    train(*SYNTHETIC, '--config.train.objective=wuauc'),
    ['config.train.objective', 'wuauc', 'config.data.raw.group'],
  ),
  'averages of tables that all nodes share': (
    train(*SYNTHETIC, '--config.tables.average_every=7'),
    ['config.tables.average_every', '7', 'independent'],
  ),
  'a checkpoint that is not there': (
    evaluate('--workdir={place}/run', '--checkpoint=77'),
    ['no checkpoint of step 77', '2'],
  ),
  'a checkpoint that is no number': (
    evaluate('--workdir={place}/run', '--checkpoint=first'),
    ["checkpoint 'first'", 'best'],
  ),
  'a split that is not there': (
    evaluate('--workdir={place}/run', '--split=holdout'),
    ['holdout', 'test'],
  ),
  'data that does not fit the model': (
    evaluate('--workdir={place}/run', '--data={place}/prepared'),
    ['C1', 'rows'],
  ),
  'data that is not there': (
    evaluate('--workdir={place}/run', '--data={place}/no.txt'),
    ['no.txt'],
  ),
  'a raw file for synthetic data': (
    evaluate('--workdir={place}/run', '--data={place}/good.txt'),
    ['good.txt'],
  ),
  # Predictions and exports.
  'predict without a workdir': (predict(), ['--workdir']),
  'predict with a workdir that is not there': (
    predict('--workdir={place}/no', *SCORED),
    ['{place}/no', 'no such folder', 'workdir or an export'],
  ),
  'predict with what is no model': (
    predict('--workdir={place}/prepared', *SCORED),
    ['{place}/prepared', 'config.json', 'model.json'],
  ),
  'predict with a file': (
    predict('--workdir={place}/file', *SCORED),
    ['{place}/file: a file', 'workdir or an export'],
  ),
  'predict before any checkpoint': (
    predict('--workdir={place}/fresh', *SCORED),
    ['fresh', 'no checkpoint', 'train first'],
  ),
  'predict with a checkpoint of other tables': (
    predict('--workdir={place}/edited', *SCORED),
    ['table C1', '50 x 4 in the checkpoint', '50 x 8'],
  ),
  'an export of a newer version': (
    predict('--workdir={place}/newer', *SCORED),
    ['newer/model.json', 'format 2', 'format 1', 'install'],
  ),
  'a cut description of an export': (
    predict('--workdir={place}/halved', *SCORED),
    ['halved/model.json', 'damaged', 'export the model again'],
  ),
  'a cut table of an export': (
    predict('--workdir={place}/shortened', *SCORED),
    ['shortened/tables/', 'damaged', 'bytes'],
  ),
  'a checkpoint of an export': (
    predict('--workdir={place}/export', '--checkpoint=2', *SCORED),
    ['export', 'checkpoint', '2'],
  ),
  'predictions without a kind': (
    predict('--workdir={place}/run', SCORED[0], OUT),
    ['--output={place}/out', '.csv or .parquet'],
  ),
  'predictions into a folder that is not there': (
    predict('--workdir={place}/run', SCORED[0], '--output={place}/no/x.csv'),
    ['--output={place}/no/x.csv', 'no folder'],
  ),
  'rows that are not there': (
    predict('--workdir={place}/run', '--data={place}/no.txt', SCORED[1]),
    ['no.txt', 'no such file'],
  ),
  'rows without names for a model of rows': (
    predict('--workdir={place}/run', *SCORED),
    ['good.txt', 'Parquet', 'C1'],
  ),
  'an empty file of rows': (
    predict('--workdir={place}/run', '--data={place}/empty.txt', SCORED[1]),
    ['empty.txt', 'empty'],
  ),
  'a prepared set of another model': (
    predict('--workdir={place}/run', '--data={place}/half', SCORED[1]),
    ['C1', 'rows'],
  ),
  'an export to where something is': (
    export('--workdir={place}/run', '--output={place}/fresh'),
    ['--output={place}/fresh', 'is there already'],
  ),
  'an export below a file': (
    export('--workdir={place}/run', '--output={place}/file/deep/x'),
    UNDER_FILE,
  ),
  'a quantised model below a file': (
    quantize(
      '--workdir={place}/run', '--tables=int8', '--output={place}/file/x'
    ),
    UNDER_FILE,
  ),
  'a converted model below a file': (
    convert('--to=fb', '--workdir={place}/run', '--output={place}/file/x.pt'),
    UNDER_FILE,
  ),
  'a set below a file': (
    prepare('--input={place}/good.txt', '--output={place}/file/x'),
    UNDER_FILE,
  ),
  'a comparison below a file': (
    sweep(
      '--config=tests/small.py',
      '--grid=model.dim=[4,8]',
      '--workdir={place}/file/x',
    ),
    UNDER_FILE,
  ),
  'an export of no run': (
    export('--workdir={place}/export', OUT),
    ['{place}/export', 'config.json'],
  ),
  # Other programs.
  'convert without a direction': (
    convert('--workdir={place}/new'),
    ['--from', '--to'],
  ),
  'convert from no program': (
    convert('--from=tf', *FB_FILE, '--workdir={place}/new'),
    ['--from', 'tf', 'fb', 'torchrec'],
  ),
  'convert from a file without a config': (
    convert('--from=fb', '--input={place}/cut.pt', '--workdir={place}/new'),
    ['--config'],
  ),
  'convert with a flag of the other direction': (
    convert('--from=fb', *FB_FILE, '--workdir={place}/new', '--output=o.pt'),
    ['--output'],
  ),
  'convert a file that is cut': (
    convert(
      *('--from=fb', '--input={place}/cut.pt', '--workdir={place}/new'),
      '--config=configs/default.py',
    ),
    ['cut.pt', 'the file is cut', '9,000 bytes'],
  ),
  'convert a file of raw data': (
    convert(
      *('--from=fb', '--input={place}/good.txt', '--workdir={place}/new'),
      '--config=configs/default.py',
    ),
    ['good.txt', 'no file of PyTorch', 'torch.save'],
  ),
  'convert a file that is not there': (
    convert(
      *('--from=torchrec', '--input={place}/no.pt', '--workdir={place}/new'),
      '--config=configs/default.py',
    ),
    ['no.pt', 'no such file'],
  ),
  'convert a file of another width': (
    convert('--from=fb', *FB_FILE, '--workdir={place}/new'),
    ['emb_l.0.weight', '[7, 8]', '[7, 16]', '--config.model.dim=8'],
  ),
  'convert tables of other sizes than a set has': (
    convert(
      *('--from=fb', *FB_FILE, '--workdir={place}/new'),
      *('--config.data.dir={place}/prepared', '--config.model.dim=8'),
    ),
    ['5 tables', '26 sparse features'],
  ),
  'convert quantised tables into another storage': (
    convert(
      *('--from=torchrec', '--workdir={place}/new'),
      '--input=tests/goldens/torchrec_quantised_mixed.pt',
      *('--config=configs/default.py', '--config.tables.storage=int2'),
    ),
    ['config.tables.storage (feature C1) is int2', 't_cat_0.weight is int8'],
  ),
  'convert the vectors of a role that a model has not': (
    convert(
      *('--to=tables', '--workdir={place}/run'),
      '--tables=C1/gmf={place}/new.csv',
    ),
    ['C1/gmf={place}/new.csv', 'expected C1/vectors'],
  ),
  'convert into a workdir that exists': (
    convert('--from=fb', *FB_FILE, '--workdir={place}/run'),
    ['--workdir={place}/run', 'choose another'],
  ),
  'convert a field that has no effect': (
    convert(
      *('--from=fb', *FB_FILE, '--workdir={place}/new'),
      '--config.tables.rank=3',
    ),
    ['config.tables.rank', 'no effect'],
  ),
  'convert what is no workdir': (
    convert('--to=fb', '--workdir={place}/prepared', OUT + '.pt'),
    ['prepared', 'config.json'],
  ),
  'convert to a folder for a program of files': (
    convert('--to=fb', '--workdir={place}/run', OUT),
    ['--output={place}/out', '.pt'],
  ),
  'convert onto a file that exists': (
    convert('--to=fb', '--workdir={place}/run', '--output={place}/cut.pt'),
    ['--output={place}/cut.pt', 'choose another'],
  ),
  'convert a checkpoint that is not there': (
    convert(
      *('--to=fb', '--workdir={place}/run', OUT + '.pt', '--checkpoint=77'),
    ),
    ['no checkpoint of step 77', '2'],
  ),
  'convert a model that the program does not have': (
    convert('--to=torchrec', '--workdir={place}/normal', OUT + '.pt'),
    ['{place}/normal', 'torchrec has no such model', 'config.model.norm'],
  ),
  # Models beside each other, and on a server.
  'a co-location of what is no model': (
    colocate('--models=ctr={place}/prepared', '--sla_ms=20'),
    ['{place}/prepared', 'config.json'],
  ),
  'a co-location of a damaged export': (
    colocate('--models=ctr={place}/shortened', '--sla_ms=20'),
    ['{place}/shortened/tables', 'bytes', 'export the model again'],
  ),
  'a co-location without a target': (
    colocate('--models=ctr={place}/export'),
    ['--sla_ms=MS', '--rate=QPS'],
  ),
  'a load of no requests': (
    load_test('--url=grpc://localhost:1', '--model=ctr', '--rate=0'),
    ['--rate=0', 'above 0'],
  ),
  # Importance of features.
  'importance without a workdir': (importance('--repeats=2'), ['--workdir']),
  'importance of what is no workdir': (
    importance('--workdir={place}/prepared'),
    ['prepared', 'config.json'],
  ),
  'importance before any checkpoint': (
    importance('--workdir={place}/fresh'),
    ['no checkpoint'],
  ),
  'importance without repeats': (
    importance('--workdir={place}/run', '--repeats=0'),
    ['--repeats=0', '1 or more'],
  ),
  'importance of no examples': (
    importance('--workdir={place}/run', '--examples=0'),
    ['--examples=0', '1 or more'],
  ),
  'importance with a negative seed': (
    importance('--workdir={place}/run', '--seed=-1'),
    ['--seed=-1', '0 or more'],
  ),
  'importance on a split that is not there': (
    importance('--workdir={place}/run', '--split=holdout'),
    ['holdout', 'validation'],
  ),
  'importance in several processes': (
    importance('--workdir={place}/run', '--processes=2', '--process=0'),
    ['--processes=2', '--process=0', '--help'],
  ),
  'importance as JSON into a folder that is not there': (
    importance('--workdir={place}/run', '--json={place}/no/r.json'),
    ['--json={place}/no/r.json'],
  ),
}


def ok(command, folder):
  assert execute(command, folder).status == 0


def filled(command, place):
  return [part.replace('{place}', str(place)) for part in command]


def without_memory(text):
  """Without the line about free memory, which changes from start to start."""
  return [x for x in text.splitlines() if not x.startswith('memory')]


def execute(command, place):
  with commands.Command(filled(command, place)) as running:
    return running.end()


NEED_TORCH = (
  'convert a file that is cut',
  'convert a file of raw data',
  'convert a file that is not there',
  'convert a file of another width',
  'convert tables of other sizes than a set has',
  'convert quantised tables into another storage',
)


@pytest.mark.parametrize('name', CASES)
def test_ends_in_one_clear_line(name, place):
  command, words = CASES[name]
  if name in NEED_TORCH:
    pytest.importorskip('torch')
  done = execute(command, place)
  assert done.status > 0
  assert 'Traceback' not in done.stderr
  message = done.stderr.splitlines()
  assert len(message) == 1, done.stderr
  assert message[0].startswith('error: ')
  for word in words:
    assert word.replace('{place}', str(place)) in message[0], done.stderr
  assert not list(place.glob('out*'))
  assert not (place / 'new' / 'checkpoints').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'wrong number of columns',
    'unknown field',
    'evaluate without a workdir',
    'a plan without a config',
    'unknown field in the file of a comparison',
  ],
)
def test_python_runs_a_command_as_the_forked_processes_do(name, place):
  command, _ = CASES[name]
  typed = subprocess.run(
    [sys.executable, *filled(command, place)],
    cwd=commands.ROOT,
    capture_output=True,
    text=True,
  )
  forked = execute(command, place)
  assert (forked.status, forked.stderr) == (typed.returncode, typed.stderr)
  assert without_memory(forked.stdout) == without_memory(typed.stdout)


def test_a_refused_command_changes_nothing(place):
  before = json.loads((place / 'run' / 'config.json').read_text())
  changed = train(*SMALL, '--workdir={place}/run', '--config.seed=9')
  assert execute(changed, place).status == 1
  assert json.loads((place / 'run' / 'config.json').read_text()) == before


@pytest.mark.parametrize(
  'command',
  [
    'evaluate',
    'export.__main__',
    'importance.__main__',
    'inspect.__main__',
    'predict.__main__',
    'prepare.__main__',
    'traces.__main__',
  ],
)
def test_wrong_usage_has_the_status_of_every_other_mistake(command, capsys):
  main = importlib.import_module(f'dlrm_jax.{command}').main
  assert main(['--no_such_flag']) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: ')
  assert len(said.splitlines()) == 1


def test_a_closed_pipe_ends_a_command_without_a_word():
  """As in `python -m dlrm_jax.plan ... | head -1`."""
  command = [sys.executable, '-m', 'dlrm_jax.plan', '--config=tests/small.py']
  with subprocess.Popen(
    command,
    cwd=commands.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    process.stdout.close()
    assert process.stderr.read() == ''
    assert process.wait() == 128 + signal.SIGPIPE
