"""The plan command: no device, no data; what fits and what would."""

import json
import re

import pytest

import dlrm_jax
from dlrm_jax.errors import InputError
from tests import commands
from tests.every_config import NAMES


def run(*flags, status=0):
  # A platform that does not exist: a plan that asks for its devices fails.
  nowhere = {'JAX_PLATFORMS': 'nowhere'}
  return commands.run(
    ['-m', 'dlrm_jax.plan', *flags], status, environment=nowhere
  )


def plan(*flags):
  return run(*flags).stdout


def suggestions(text):
  """Flags and sizes that a plan says would fit."""
  return re.findall(r'^to fit +(--.*): (.*) a device$', text, re.M)


@pytest.fixture(scope='module')
def multihot(tmp_path_factory):
  path = tmp_path_factory.mktemp('plan') / 'plan.json'
  flags = '--config=configs/criteo_mlperf.py:multihot', '--memory=20GB'
  text = plan(*flags, '--devices=8', f'--json={path}')
  return text, json.loads(path.read_text())


def test_a_plan_touches_no_device_and_names_every_table():
  text = plan('--config=configs/criteo_kaggle.py')
  assert all(f' C{i} ' in text for i in range(1, 27))
  assert 'it fits' in text
  assert '8, 8 shards; batch 128, 16 examples a device' in text


def test_states_in_bfloat16_have_half_the_bytes(tmp_path):
  flags = '--config.table_optimizer.name=adagrad', '--devices=1'
  path, found = tmp_path / 'plan.json', {}
  for state in ('float32', 'bfloat16'):
    kept = f'--config.tables.state={state}'
    plan(KAGGLE, *flags, kept, f'--json={path}')
    found[state] = json.loads(path.read_text())
  wide, narrow = found.values()
  ratio = narrow['memory']['tables'] / wide['memory']['tables']
  assert ratio == pytest.approx(3 / 4, rel=1e-4)  # shards are whole tiles
  for one, other in zip(wide['tables'], narrow['tables'], strict=True):
    assert (one['state'], other['state']) == ('float32', 'bfloat16')
    values = one['rows'] * one['dim'] * 4
    assert (one['bytes'], other['bytes']) == (2 * values, 1.5 * values)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', [name for name in NAMES if name not in ('avazu', 'movielens')]
)
def test_every_config_that_knows_its_sizes_is_planned(name):
  file, _, variant = name.partition(':')
  word = f'configs/{file}.py' + (f':{variant}' if variant else '')
  text = plan(f'--config={word}', '--memory=200GB')
  assert re.search(r'^memory .* 200 GB of a device: it fits$', text, re.M)


def test_what_can_not_fit_is_said_with_what_would(multihot):
  text, found = multihot
  assert 'IT DOES NOT FIT' in text
  assert not found['fits']
  assert 'to fit    --devices=16: ' in text


def test_json_has_numbers_notes_and_suggestions(multihot):
  _, found = multihot
  (hint,) = found['suggestions']
  assert hint['flags'] == {'devices': 16}
  assert hint['total'] <= found['budget']
  assert ['--memory=20GB' in note for note in found['notes']] == [True]
  assert 'compiled' not in found
  assert sum(t['rows'] for t in found['tables']) == 204_184_588
  assert sum(sum(t['hotness']) for t in found['tables']) == 214
  assert len(found['rows']) == len(found['reads']) == 8
  assert found['memory']['total'] > found['budget'] == 20e9
  assert all(
    t['why'].startswith('one id' if t['hotness'] == [1] else 'bags')
    for t in found['tables']
  )


def test_a_branch_costs_its_part_of_memory_and_products(tmp_path):
  def planned(count):
    path = tmp_path / f'{count}.json'
    config = '--config=configs/frappe.py:branches', '--devices=1'
    text = plan(*config, f'--config.model.branches={count}', f'--json={path}')
    assert ('branches  3; ' in text) == (count == 3)
    return json.loads(path.read_text())

  one, three = planned(1), planned(3)
  # Layers 200-256-256-256-1 and a batch of 4,096 examples.
  weights = 200 * 256 + 2 * 256 * 256 + 256
  assert one['flops'] == 6 * 4096 * weights
  assert three['flops'] == 3 * one['flops']
  assert (one['branches'], three['branches']) == (1, 3)
  for part in ('tables', 'dense'):
    assert three['memory'][part] == pytest.approx(
      3 * one['memory'][part], rel=0.01
    )


FOLLOWED = {
  'replicated': (
    '--config=configs/criteo_kaggle.py',
    '--config.tables.placement=replicated',
    '--memory=250MB',
  ),
  'hashed, little memory': (
    '--config=configs/criteo_mlperf.py',
    '--devices=8',
    '--memory=2GB',
  ),
  'fewer devices than shards': (
    '--config=configs/criteo_kaggle.py:best',
    '--config.tables.placement=table_wise',
    '--devices=4',
    '--memory=1GB',
  ),
  'no more devices': (
    '--config=configs/criteo_kaggle.py',
    '--devices=128',
    '--memory=25MB',
  ),
  'a batch that few counts divide': (
    '--config=configs/criteo_kaggle.py',
    '--config.train.batch_size=120',
    '--devices=5',
    '--memory=300MB',
  ),
}


@pytest.mark.parametrize(
  'name',
  [
    *('replicated', 'fewer devices than shards'),
    pytest.param('hashed, little memory', marks=pytest.mark.slow),
    pytest.param('a batch that few counts divide', marks=pytest.mark.slow),
  ],
)
def test_suggestions_fit_when_they_are_followed(name):
  asked = FOLLOWED[name]
  found = suggestions(plan(*asked))
  assert found
  for added, size in found:
    text = plan(*asked, *added.split())
    assert re.search(rf'^memory +{size} of .*: it fits$', text, re.M), added
    assert 'train.batch_size' not in text


def test_auto_fits_where_row_wise_does():
  flags = (
    *('--config=configs/criteo_mlperf.py', '--devices=8', '--memory=2GB'),
    *('--config.tables.encoding=hashed', '--config.tables.rows=4700000'),
  )
  assert 'it fits' in plan(*flags, '--config.tables.placement=row_wise')
  assert 'it fits' in plan(*flags)


@pytest.mark.parametrize(('devices', 'nearest'), [(7, 112), (6, 120)])
def test_a_batch_that_the_devices_do_not_divide_is_noted(devices, nearest):
  text = plan('--config=configs/criteo_kaggle.py', f'--devices={devices}')
  assert 'config.train.batch_size is 128' in text
  assert f'--config.train.batch_size={nearest}\n' in text


def test_a_memory_that_the_config_does_not_have_is_noted():
  config = '--config=configs/criteo_kaggle.py'
  note = 'train with --config.tables.memory=40GB'
  assert note in plan(config, '--memory=40GB')
  assert 'note' not in plan(config, '--memory=16GB')
  given = '--config.tables.placement=row_wise'
  assert 'note' not in plan(config, '--memory=40GB', given)


def test_shards_follow_the_devices_and_it_is_said():
  text = plan('--config=configs/criteo_kaggle.py', '--devices=64')
  assert '64, 64 shards' in text
  assert '--config.tables.shards=64' in text
  text = plan('--config=configs/criteo_kaggle.py', '--devices=4')
  assert '4, 8 shards' in text
  assert 'config.tables.shards' not in text


def test_a_placement_that_does_not_fit_is_undone_by_the_advice():
  text = plan(
    '--config=configs/criteo_kaggle.py',
    '--config.tables.placement=table_wise',
    '--memory=500MB',
  )
  assert 'IT DOES NOT FIT' in text
  assert '--config.tables.placement=row_wise' in text


KAGGLE = '--config=configs/criteo_kaggle.py'
MISTAKES = [
  (
    (KAGGLE, '--memory=16'),
    "--memory is '16'; expected a number with its unit (kB, MB, GB, KiB, MiB, "
    'GiB), as '
    'in 16GB',
  ),
  (
    (KAGGLE, '--config.tables.placemnt=auto'),
    '--config.tables.placemnt: there is no field placemnt; did you mean '
    'placement?',
  ),
  (
    (KAGGLE, '--config.train.batch_size.x=3'),
    '--config.train.batch_size.x: there is no field x; see configs/default.py',
  ),
  (
    ('--config=configs/nope.py',),
    '--config=configs/nope.py: no such file; with dlrm_jax come avazu, '
    'criteo_kaggle, criteo_mlperf, criteo_terabyte, default, frappe, '
    'movielens, multitask, ncf, notebook, rmc, synthetic',
  ),
  (
    (KAGGLE + ':besst',),
    f"{KAGGLE}:besst: variant 'besst': expected reference, best, branches, "
    'lr, fm, wide_deep, deepfm, dcn, dlrm',
  ),
  (
    (KAGGLE, '--devices=x'),
    '--devices=x: expected a whole number (see python -m dlrm_jax.plan --help)',
  ),
]


@pytest.mark.parametrize(('flags', 'message'), MISTAKES)
def test_mistakes_end_in_one_line(flags, message):
  done = run(*flags, status=1)
  assert done.stderr == f'error: {message}\n'


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ({'devices': '8'}, "--devices is '8'; expected such as 8"),
    ({'devices': 1.5}, '--devices is 1.5; expected such as 8'),
    ({'devices': True}, '--devices is True'),
    ({'memory': 16}, "--memory is 16; expected such as '16GB'"),
    ({'compile': True}, "compile is True; expected such as 'v5e:2x4'"),
    ({'memory': '16 apples'}, '16 apples'),
  ],
)
def test_arguments_of_the_function_of_other_types_are_refused(arguments, words):
  with pytest.raises(InputError, match=words):
    dlrm_jax.plan('criteo_kaggle', **arguments)


def test_the_function_gives_what_the_command_writes(tmp_path, capsys):
  path = tmp_path / 'plan.json'
  printed = plan(KAGGLE, '--devices=4', '--memory=1GB', f'--json={path}')
  found = dlrm_jax.plan('criteo_kaggle', 4, '1GB')
  assert found == json.loads(path.read_text())
  assert capsys.readouterr().out == printed
