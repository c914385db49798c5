"""What is settled before a run: encodings by frequency, users' partitions."""

import json
import tracemalloc

import numpy as np
import polars as pl
import pytest
from ml_collections import ConfigDict

from dlrm_jax.build import trained
from dlrm_jax.build.auto import settle
from dlrm_jax.build.data import identity
from dlrm_jax.build.task import build_task
from dlrm_jax.data import prepared
from dlrm_jax.embedding.encoding import Composed, Plain
from dlrm_jax.embedding.sizes import Seen, frequent_rows
from dlrm_jax.errors import InputError
from dlrm_jax.synthetic.log import Synthetic
from dlrm_jax.training.sizes import saving
from tests import job
from tests.build.test_build import load

DATA = Synthetic(tables=(3000, 3000, 400, 90), hotness=(1, 3, 1, 1))


class Counted(Synthetic):
  """The same log, but its counts are those that a test gives."""

  given: dict

  def counts(self, feature):
    return self.given[feature]


def counted(**given):
  data = Counted(
    tables=tuple(map(len, given.values())), hotness=(1,) * len(given)
  )
  object.__setattr__(data, 'given', given)
  return data


def config_of(**tables):
  config = load('synthetic')
  config.tables.encoding = 'auto'
  config.tables.update(tables)
  return config


def task_of(config, data=DATA):
  return build_task(settle(config, data), data.schema, data.scale)


def encodings(config, data=DATA):
  features = task_of(config, data).collection.features
  return {feature.name: feature.encoding for feature in features}


@pytest.mark.parametrize('compression', [1.1, 1.5, 2.0, 4.0, 16.0])
def test_the_budget_is_kept_and_used(compression):
  dim = 16
  budget = int((3000 + 3000 + 400) / compression) * dim
  task = task_of(config_of(compression=compression))
  found = saving(task).parameters - 90 * dim
  assert 0.95 * budget < found <= budget


def test_frequent_ids_have_rows_in_whatever_table_they_are():
  often, seldom = np.arange(1000, 0, -1) + 500, np.full(1000, 3)
  data = counted(C1=often, C2=seldom)
  found = encodings(config_of(compression=1.6), data)
  assert isinstance(found['C1'], Plain)
  (rows, _) = (table.rows for table in found['C2'].tables)
  assert rows == pytest.approx(2000 / 1.6 - 1000, abs=8)


def test_tables_under_the_threshold_stay_plain_even_if_all_are():
  found = encodings(config_of(threshold=400))
  assert isinstance(found['C3'], Plain)
  assert not isinstance(found['C1'], Plain)
  found = encodings(config_of(threshold=3000))
  assert all(isinstance(encoding, Plain) for encoding in found.values())


def test_its_product_is_its_own_whatever_others_combine_by():
  expected = encodings(config_of())['C1']
  found = encodings(config_of(combine='path'))['C1']
  assert found.partition == expected.partition
  assert found.operation == expected.operation


def test_counts_of_a_shared_table_are_added_up():
  shared = ConfigDict({'C1': {'table': 't'}, 'C2': {'table': 't'}})
  two, three = np.full(1000, 2), np.full(1000, 3)
  data = counted(C1=two, C2=two, C3=three)
  found = encodings(config_of(features=shared, compression=1.6), data)
  assert found['C1'] == found['C2']
  assert isinstance(found['C1'], Plain)
  assert found['C1'].tables[0].name == 't'
  assert isinstance(found['C3'], Composed)


def test_other_words_beside_it_stay():
  features = ConfigDict({'C1': {'encoding': 'hashed'}})
  settled = settle(config_of(features=features), DATA).tables.features
  assert settled.C1.to_dict() == {'encoding': 'hashed'}
  assert settled.C2.encoding == 'quotient_remainder'


def test_what_was_settled_builds_the_same_after_json():
  settled = settle(config_of(), DATA)
  again = json.loads(json.dumps(settled.to_dict()))
  run = trained.trained(again, json.loads(json.dumps(identity(DATA))))
  assert (
    run.task.collection.features == task_of(config_of()).collection.features
  )


def test_many_ids_are_counted_within_bounded_memory(tmp_path):
  rows, path = 20_000_000, tmp_path / 'C1.parquet'
  counts = (1e9 / np.arange(1, rows)).astype(np.int64)
  pl.DataFrame({'count': counts}).write_parquet(path)
  tracemalloc.start()
  try:
    seen = Seen.of(prepared._count_pieces(path, rows))
    half = frequent_rows([seen, seen], rows, lambda _, n: n)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert seen.oftener(-1) == rows
  assert half == (rows // 2, rows // 2)
  assert peak < 200e6  # twice the counts are 640 MB


def test_without_counts_it_is_refused():
  with pytest.raises(InputError, match=r'feature C1.*no counts.*--hash_rows'):
    settle(config_of(), Blind())


class Blind(Synthetic):
  """Knows nothing of its ids."""

  def count_pieces(self, feature):
    del feature


@pytest.mark.parametrize(
  ('tables', 'words'),
  [
    ({'compression': 0.0}, 'tables.compression'),
    ({'rows': -5}, 'tables.rows'),
    ({'rows': 3}, 'parameters is too small'),
    ({'threshold': -1}, 'tables.threshold'),
  ],
)
def test_the_impossible_is_refused(tables, words):
  with pytest.raises(InputError, match=words):
    settle(config_of(**tables), DATA)


def test_an_auto_that_nobody_settled_is_refused():
  with pytest.raises(InputError, match='is auto'):
    build_task(config_of(), DATA.schema, DATA.scale)


def run(*command, status=0):
  return job.run(command, 1, status=status)[0]


@pytest.mark.slow
def test_runs_with_auto_and_a_file_go_on_and_are_evaluated(tmp_path):
  rows, given = np.arange(40), tmp_path / 'given.npy'
  np.save(given, np.stack([rows % 8, rows // 8], 1))
  config = tmp_path / 'given.py'
  config.write_text(
    'from tests import small\n'
    'def get_config():\n'
    '  config = small.get_config()\n'
    '  config.train.steps = 10\n'
    "  config.tables.encoding, config.tables.threshold = 'auto', 0\n"
    "  config.tables.features.C2 = {'encoding': 'partitions',\n"
    f"    'partitions': {str(given)!r}}}\n"
    '  return config\n'
  )
  workdir = tmp_path / 'run'
  train = ('train.py', f'--config={config}', f'--workdir={workdir}')
  evaluate = ('-m', 'dlrm_jax.evaluate', f'--workdir={workdir}')
  run(*train)
  features = json.loads((workdir / 'config.json').read_text())['tables']
  assert features['features']['C1']['encoding'] == 'quotient_remainder'
  assert '#' in features['features']['C2']['partitions']
  _, told, _ = run(*evaluate)
  assert 'auc' in told
  _, _, told = run(*train, '--config.tables.compression=2.0', status=1)
  assert 'tables.compression was 4.0, is 2.0. Choose' in told
  np.save(given, np.stack([rows // 5, rows % 5], 1))
  for command in (evaluate, train):
    _, _, told = run(*command, status=1)
    assert 'partitions' in told
    assert len(told.splitlines()) == 1
