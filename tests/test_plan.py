"""The plan command: no device, no data; what fits and what would."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A platform that does not exist: whoever asks for a device fails.
ENVIRONMENT = os.environ | {'JAX_PLATFORMS': 'nowhere', 'XLA_FLAGS': ''}


def plan(*flags):
  done = subprocess.run(
    [sys.executable, '-m', 'dlrm_jax.plan', *flags],
    cwd=ROOT,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


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


def test_what_can_not_fit_is_said_with_what_would(multihot):
  text, found = multihot
  assert 'IT DOES NOT FIT' in text
  assert not found['fits']
  assert '--devices=16' in text
  assert 'rowwise_adagrad' in text
  assert '--config.tables.rows=' in text


def test_json_has_all_of_it(multihot):
  _, found = multihot
  assert sum(t['rows'] for t in found['tables']) == 204_184_588
  assert sum(sum(t['hotness']) for t in found['tables']) == 214
  assert len(found['rows']) == len(found['reads']) == 8
  assert found['memory']['total'] > found['budget'] == 20e9
  assert all(t['why'] for t in found['tables'])


def test_advice_fits_when_it_is_followed():
  flags = '--config=configs/criteo_mlperf.py:multihot', '--devices=16'
  assert 'it fits' in plan(*flags)


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
