"""Blocks of synthetic logs whose ids follow traces."""

import dataclasses

import numpy as np
import pytest

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import BLOCK_ROWS, Column
from dlrm_jax.errors import InputError
from dlrm_jax.synthetic.log import Synthetic
from dlrm_jax.traces.blocks import make_pattern
from dlrm_jax.traces.fit import fit, fit_source
from dlrm_jax.traces.lru_stack import stack_distances
from dlrm_jax.traces.trace import Trace
from dlrm_jax.traces.trace_files import write_traces
from tests.traces.examples import (
  BOTH,
  COLD,
  assert_drawn_from,
  whole,
)


@pytest.fixture(scope='module')
def trace_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('traces') / 'trace.json'
  bags = dataclasses.replace(COLD, hotness=8)
  write_traces(
    {'A': BOTH, 'B': COLD, 'C': Trace(9, 1, 1.0, 9, 1.0), 'D': bags}, path
  )
  return str(path)


@pytest.fixture(scope='module')
def log(trace_file):
  return Synthetic(train=600_000, validation=5000, trace=trace_file)


def test_a_synthetic_log_has_the_features_of_its_traces(log):
  assert log.schema.sparse == (
    Column('A', 2000), Column('B', 2000), Column('C', 9), Column('D', 2000, 8),
  )  # fmt: skip
  block = log.source('validation')[1]
  assert block.ids.dtype == np.int32
  assert block.ids.shape == (5000 - BLOCK_ROWS, 11)
  assert block.ids.max() < 2000
  assert block.ids.min() == PAD
  assert block.ids[:, :3].min() == 0


def test_blocks_of_traces_are_functions_of_their_number(log, trace_file):
  again = Synthetic(train=900_000, validation=1, trace=trace_file)
  for number in (140, 3, 64):
    one, other = log.source('train')[number], again.source('train')[number]
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.labels, other.labels)
  train, validation = log.source('train'), log.source('validation')
  assert not np.array_equal(train[0].ids, validation[0].ids)
  assert not np.array_equal(train[0].ids, train[64].ids)


def test_a_segment_has_the_locality_of_its_trace(log):
  ids = whole(log.source('train'), range(64, 128)).ids
  cold = stack_distances(ids[:, 1])
  hot = stack_distances(ids[ids[:, 0] >= 40, 0])
  for distance, share in zip(
    COLD.distances[1:5], COLD.cumulative[1:5], strict=True
  ):
    for found in (cold, hot):
      near = np.mean((found > 0) & (found <= distance))
      assert near == pytest.approx(share - 0.01, abs=0.01)


def test_ids_of_traces_are_counted_as_expected(tmp_path):
  whole_octave = Trace(9, distances=(0, 9), cumulative=(0.1, 1.0))
  power_law = Trace(9, 1, 1.0, 9, 1.0)
  write_traces({'A': whole_octave, 'B': power_law}, tmp_path / 'trace.json')
  log = Synthetic(train=2_000_000, trace=str(tmp_path / 'trace.json'))
  ids = whole(log.source('train'), range(0, 488, 4)).ids
  for column, feature in enumerate(log.schema.sparse):
    counts = log.counts(feature.name)
    assert counts.sum() == pytest.approx(log.train)
    found = np.bincount(ids[:, column]) / len(ids)
    np.testing.assert_allclose(found, counts / log.train, atol=0.01)


def test_segments_go_through_the_vocabulary():
  trace = Trace(100_000, distances=(0, 1), cumulative=(0.02, 1.0))
  pattern = make_pattern(trace, [0])
  few = len(np.unique(pattern.ids))
  ids = np.stack([pattern.block([0, 0], block) for block in range(8 * 64)])
  assert 4000 < few < 6000
  assert len(np.unique(ids)) > 3 * few
  assert ids.min() == 0
  assert 90_000 < ids.max() < 100_000
  assert pattern.shares().sum() == pytest.approx(1)


def test_fingerprints_tell_traces_and_exponents_apart(tmp_path):
  path = tmp_path / 'trace.json'
  found = {Synthetic().fingerprint, Synthetic(exponent=1.2).fingerprint}
  for trace in (COLD, BOTH):
    write_traces({'C1': trace}, path)
    found.add(Synthetic(trace=str(path)).fingerprint)
  assert len(found) == 4


def test_a_synthetic_log_may_have_another_exponent():
  log = Synthetic(train=50_000, exponent=1.5)
  ids = whole(log.source('train'), range(12)).ids[:, 1]
  counts = log.counts('C2') * len(ids) / log.train
  assert_drawn_from(np.bincount(ids, minlength=1000), counts / counts.sum())


def test_wrong_laws_of_a_synthetic_log_are_told(tmp_path, trace_file):
  with pytest.raises(InputError, match='exponent is -1'):
    Synthetic(exponent=-1)
  with pytest.raises(InputError, match='leave one of them out'):
    Synthetic(exponent=1.1, trace=trace_file)
  write_traces({'C1': Trace(3)}, tmp_path / 'few.json')
  with pytest.raises(InputError, match=r'feature C1: rows is 3; .* 4 or more'):
    Synthetic(trace=str(tmp_path / 'few.json'))


def test_features_of_a_source_are_measured_without_pad():
  log = Synthetic(train=10_000)
  found = fit_source(log.source('train'), 9000)
  ids = whole(log.source('train'), range(3)).ids[:9000]
  assert found['C1'] == fit(ids[:, 0], 2000)
  bags = ids[:, 3:7].ravel()
  assert found['C4'] == fit(bags[bags != PAD], 500, 4)
