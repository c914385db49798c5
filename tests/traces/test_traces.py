import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.errors import InputError
from dlrm_jax.synthetic.log import Synthetic
from dlrm_jax.traces import power_law as popularity
from dlrm_jax.traces.blocks import make_pattern
from dlrm_jax.traces.fit import fit
from dlrm_jax.traces.lru_stack import ids_at, stack_distances
from dlrm_jax.traces.trace import Trace, draw_distances, generate
from dlrm_jax.traces.trace_files import read_dist_emb, read_traces, write_traces
from tests.traces.examples import (
  BOTH,
  COLD,
  PUBLISHED,
  assert_drawn_from,
  hit_rates,
)


def on_a_list(depths):
  """The ids at these depths, by moving a list."""
  stack, ids = list(range(1000)), []
  for depth in depths:
    stack.insert(0, stack.pop(depth - 1))
    ids.append(stack[0])
  return ids


def from_a_list(ids):
  """Stack distances, by moving a list."""
  stack, distances = [], []
  for i in ids:
    distances.append(stack.index(i) + 1 if i in stack else 0)
    if i in stack:
      stack.remove(i)
    stack.insert(0, i)
  return distances


@given(st.lists(st.integers(0, 30), max_size=200))
def test_stack_distances_are_those_of_a_moved_list(ids):
  assert stack_distances(np.array(ids, int)).tolist() == from_a_list(ids)


@given(st.lists(st.integers(1, 40), max_size=200))
def test_ids_at_depths_are_those_of_a_moved_list(depths):
  assert ids_at(np.array(depths, int)).tolist() == on_a_list(depths)


def test_long_sequences_are_exact_too():
  rng = np.random.default_rng(0)
  for n, rows in ((4096, 900), (5000, 30), (3000, 1000)):
    depths = rng.integers(1, rows + 1, n)
    ids = ids_at(depths)
    assert ids.tolist() == on_a_list(depths)
    assert stack_distances(ids).tolist() == from_a_list(ids.tolist())


@pytest.mark.parametrize('exponent', [0.0, 0.7, 1.0, 1 + 1e-9, 2.5])
def test_ids_follow_the_power_law(exponent):
  rng = np.random.default_rng(0)
  ids = popularity.power_law(rng.random(200_000), 50, exponent)
  law = popularity.probabilities(50, exponent)
  assert law.sum() == pytest.approx(1)
  assert_drawn_from(np.bincount(ids, minlength=50), law)


def test_exponent_one_is_zipfs_law():
  uniform = np.linspace(0, 1, 1000, endpoint=False)
  ids = popularity.power_law(uniform, 300, 1.0)
  assert ids.tolist() == (np.floor(301**uniform) - 1).tolist()
  law = np.diff(np.log(np.arange(1, 302))) / np.log(301)
  np.testing.assert_allclose(popularity.probabilities(300, 1.0), law)


@pytest.mark.parametrize('exponent', [0.0, 1.0, 1.5])
def test_every_row_of_a_large_table_can_be_drawn(exponent):
  rows = 4_000_000
  ends = np.cumsum(popularity.probabilities(rows, exponent))
  starts = np.concatenate([[0.0], ends[:-1]])
  # What NumPy draws are multiples of 2^-53.
  middles = np.round((starts + ends) / 2 * 2.0**53) / 2.0**53
  ids = popularity.power_law(middles, rows, exponent)
  np.testing.assert_array_equal(ids, np.arange(rows))


@pytest.mark.parametrize('exponent', [0.0, 0.6, 1.0, 1.7])
def test_exponents_are_found_again(exponent):
  ids = popularity.power_law(
    np.random.default_rng(1).random(300_000), 100, exponent
  )
  found = popularity.fit_exponent(np.bincount(ids))
  assert found == pytest.approx(exponent, abs=0.02)


def test_a_pattern_and_the_planted_effects_are_drawn_apart(tmp_path):
  write_traces({'C1': BOTH}, str(tmp_path / 'trace.json'))
  spec = Synthetic(trace=str(tmp_path / 'trace.json'), seed=5)
  (pattern,) = spec.ids._patterns
  # (5,) and (5, 0), which NumPy takes for one seed, is that of the effects.
  assert not np.array_equal(pattern.ids, make_pattern(BOTH, [5, 0]).ids)


def test_distances_are_spread_evenly_between_those_listed():
  trace = Trace(20, distances=(0, 1, 4, 6), cumulative=(0.2, 0.3, 0.6, 1.0))
  drawn = draw_distances(trace, 100_000, np.random.default_rng(0))
  wanted = np.array([0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2])
  assert_drawn_from(np.bincount(drawn), wanted)


def test_generated_ids_have_the_distances_wanted():
  ids = generate(COLD, 150_000, np.random.default_rng(0))
  found = np.bincount(stack_distances(ids), minlength=2001)
  # Each of the 2,000 rows is new once; later the one that rested for longest.
  assert found[0] <= 2000
  found[0] += found[201:].sum()
  steps = np.diff(COLD.distances, prepend=-1)
  wanted = np.repeat(np.diff(COLD.cumulative, prepend=0) / steps, steps)
  assert_drawn_from(found[:201], wanted)


def test_hot_ids_are_as_popular_as_wanted_and_others_as_local():
  ids = generate(BOTH, 100_000, np.random.default_rng(0))
  law = popularity.probabilities(40, 1.3) * 0.6
  counts = np.bincount(ids, minlength=2000)
  assert_drawn_from(
    np.append(counts[:40], counts[40:].sum()), np.append(law, 0.4)
  )
  assert np.all(np.diff(counts[40:]) <= 0)
  found = stack_distances(ids[ids >= 40])
  for distance, share in zip(COLD.distances, COLD.cumulative, strict=True):
    short = found <= distance
    short |= (found > 200) & (share < 1)  # as new as any
    assert np.mean(short) == pytest.approx(share, abs=0.01)


def test_a_trace_is_a_function_of_its_seed():
  once, again, other = (
    generate(BOTH, 5000, np.random.default_rng(seed)) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(once, again)
  assert not np.array_equal(once, other)


def test_measured_generated_and_measured_again_is_the_same():
  rng = np.random.default_rng(0)
  # Popular ids, and others that come in bursts.
  popular = popularity.power_law(rng.random(60_000), 3000, 1.1)
  bursts = np.arange(60_000) // 20 % 1500 + 1500
  real = np.where(rng.random(60_000) < 0.5, popular, bursts)
  first = fit(real, 3000)
  ids = generate(first, len(real), np.random.default_rng(1))
  second = fit(ids, 3000)
  assert second.hot_share == pytest.approx(first.hot_share, abs=0.02)
  assert second.exponent == pytest.approx(first.exponent, abs=0.05)
  sizes = (4, 16, 64, 256, 1024)
  difference = hit_rates(ids, sizes) - hit_rates(real, sizes)
  assert np.abs(difference).max() < 0.02
  independent = popularity.power_law(rng.random(60_000), 3000, 1.0)
  assert hit_rates(real, [4]) > hit_rates(independent, [4]) + 0.1


def test_a_trace_longer_than_its_measure_goes_on_with_the_rows_it_has():
  trace = fit(np.arange(50), 60)  # all ids new
  ids = generate(
    dataclasses.replace(trace, hot=0, hot_share=0.0),
    200,
    np.random.default_rng(0),
  )
  assert len(np.unique(ids)) == 60
  assert np.all(np.bincount(ids) >= 3)


def test_published_distributions_are_read(tmp_path):
  path = tmp_path / 'dist_emb_0.log'
  path.write_text(PUBLISHED)
  trace = read_dist_emb(path)
  assert (trace.rows, trace.hotness, trace.hot) == (6, 1, 0)
  drawn = draw_distances(trace, 50_000, np.random.default_rng(0))
  wanted = np.array([0.5, 0.1, 0.0, 0.2, 0.1, 0.1])
  counts = np.bincount(drawn)
  assert counts[2] == 0
  assert_drawn_from(counts, wanted)


def test_files_keep_traces(tmp_path):
  traces = {'C1': BOTH, 'C2': Trace(10, 3, 1.1, 10, 1.0)}
  write_traces(traces, tmp_path / 'trace.json')
  assert read_traces(tmp_path / 'trace.json') == traces


def test_a_file_of_power_laws_may_be_written_by_hand(tmp_path):
  path = tmp_path / 'trace.json'
  path.write_text(
    '{"C1": {"rows": 90, "exponent": 2, "hot": 90, "hot_share": 1}}'
  )
  ids = generate(read_traces(path)['C1'], 50_000, np.random.default_rng(0))
  assert_drawn_from(
    np.bincount(ids, minlength=90), popularity.probabilities(90, 2)
  )


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({'rows': 0}, 'rows is 0; expected 1'),
    ({'rows': 2.5}, '2.5 where a whole number is expected'),
    ({'rows': 9, 'hot': 10}, 'hot is 10; expected 0 ... 9'),
    ({'rows': 9, 'hot_share': 0.5}, 'hot_share is 0.5; expected 0 ... 0'),
    ({'rows': 9, 'hot': 9, 'hot_share': 0.5}, 'all 9 rows are hot'),
    ({'rows': 9, 'exponent': -1}, 'exponent is -1'),
    ({'rows': 9, 'exponnt': 1}, 'no field exponnt; fields are rows'),
    ({'rows': 9, 'distances': 3}, 'distances must be a list'),
    ({'rows': 9, 'distances': [0, 1]}, '2 distances but 1 cumulative'),
    ({'rows': 9, 'distances': [1]}, 'distances must ascend from 0'),
    ({'rows': 9, 'cumulative': [float('nan')]}, 'shares must ascend'),
    ({'rows': 9, 'cumulative': [0.9]}, 'shares end in 0.9; expected 1'),
    (
      {'rows': 9, 'distances': [0, 10], 'cumulative': [0.5, 1.0]},
      'largest distance is 10, deeper than the 9 rows',
    ),
    ([], 'expected an object with rows'),
  ],
)
def test_a_wrong_trace_is_told_with_file_and_feature(tmp_path, fields, told):
  path = tmp_path / 'trace.json'
  path.write_text(json.dumps({'C7': fields}))
  with pytest.raises(InputError, match=told) as error:
    read_traces(path)
  assert str(error.value).startswith(f'{path}, feature C7: ')


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    ('1, 2\n0, 1\n', '2 lines; expected 3'),
    ('1, x\n0\n1.0\n', "line 1: '1, x'; expected whole numbers"),
    ('1, 2\n0, 1\n1.0\n', '2 distances in line 2 but 1 shares'),
    ('1, 2\n0, 2, 1\n.1, .2, 1\n', 'line 2: distances do not ascend'),
    ('1, 2\n0, 3\n.1, 1\n', 'deeper than the 2 rows'),
  ],
)
def test_a_wrong_published_file_is_told(tmp_path, text, told):
  path = tmp_path / 'dist_emb_0.log'
  path.write_text(text)
  with pytest.raises(InputError, match=told) as error:
    read_dist_emb(path)
  assert str(path) in str(error.value)


def test_a_file_that_is_not_there_or_no_json_is_told(tmp_path):
  with pytest.raises(InputError, match=r'^\S+none.json: cannot be read \(No'):
    read_traces(tmp_path / 'none.json')
  (tmp_path / 'bad.json').write_text('{')
  with pytest.raises(InputError, match=r'bad.json: not JSON'):
    read_traces(tmp_path / 'bad.json')
