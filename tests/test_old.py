"""Sets, workdirs and checkpoints of an earlier version work as they did.

An archive is named after the commit that wrote it, the last one before fields
of the config had kinds, and the last one before the code had rooms. In each,
`set` was prepared from log.csv with config.py, and `criteo` from a log in the
format of Criteo; `unfinished` and `finished` are one run on `set`, after step
12 and after its last step; `auto` is a run on `criteo` with automatic
encodings. JSON files have what `evaluate` printed.
"""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import commands
from tests.archives import unpack
from tests.commands import ROOT

COMMITS = '9396860', 'f1a4081'


@pytest.fixture(params=COMMITS)
def old(request, tmp_path):
  name = f'written_by_{request.param}.tar.gz'
  unpack(ROOT / 'tests' / 'old' / name, tmp_path)
  return tmp_path


def run(folder, *arguments, status=0):
  return commands.run(arguments, status, folder)


def state(workdir, step):
  with ocp.StandardCheckpointer() as checkpointer:
    folder = workdir.absolute() / 'checkpoints' / str(step)
    tree = checkpointer.restore(folder / 'state')
  # A field without arrays is one that earlier versions did not have.
  return {name: x for name, x in tree.items() if jax.tree.leaves(x)}


def same_metrics(got, want):
  for name in want.keys() & got.keys():
    assert got[name] == pytest.approx(want[name], rel=1e-5), name
  assert {'auc', 'log_loss', 'examples'} <= want.keys() & got.keys()


def test_an_old_run_goes_on_and_ends_as_it_would_have(old):
  run(
    old, ROOT / 'train.py', '--config=config.py', '--config.data.dir=set',
    '--config.train.keep=9', '--workdir=unfinished',
  )  # fmt: skip
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    state(old / 'unfinished', 30),
    state(old / 'finished', 30),
  )
  got = json.loads((old / 'unfinished' / 'results.json').read_text())
  want = json.loads((old / 'finished' / 'results.json').read_text())
  assert got['step'] == want['step']
  for split in want['splits']:
    same_metrics(got['splits'][split], want['splits'][split])


def test_an_old_run_is_evaluated_on_a_raw_file_with_its_vocabularies(old):
  done = run(
    old, '-m', 'dlrm_jax.evaluate', '--workdir=finished', '--data=new.csv'
  )
  got = json.loads(done.stdout.splitlines()[-1])
  want = json.loads((old / 'evaluated.json').read_text())
  same_metrics(got['metrics'], want['metrics'])


def test_an_old_run_with_automatic_encodings_is_evaluated(old):
  done = run(old, '-m', 'dlrm_jax.evaluate', '--workdir=auto')
  got = json.loads(done.stdout.splitlines()[-1])
  want = json.loads((old / 'auto.json').read_text())
  same_metrics(got['metrics'], want['metrics'])


def test_an_old_set_lends_its_vocabularies(old):
  run(
    old, '-m', 'dlrm_jax.prepare', 'raw', '--config=config.py',
    '--vocabulary=set', '--input=new.csv', '--output=new',
  )  # fmt: skip
  run(
    old, '-m', 'dlrm_jax.evaluate', '--workdir=finished', '--data=new'
  )  # fmt: skip


def test_a_run_whose_data_is_elsewhere_says_how_to_evaluate_it(old):
  (old / 'set').rename(old / 'moved')
  lost = '-m', 'dlrm_jax.evaluate', '--workdir=finished'
  done = run(old, *lost, status=1)
  assert 'set: the set that the run was trained on is not there' in done.stderr
  assert '--data=DIR' in done.stderr
  run(old, *lost, '--data=moved')
