"""Points of a comparison: spreads, differences by seed, table, picture."""

import math

import pytest

from dlrm_jax.tradeoff.picture import picture
from dlrm_jax.tradeoff.study import Point, Study, markdown, write_study


def point(encoding, ratio, auc, losses):
  count = int(1000 / ratio)
  scores = {
    seed: {'auc': a, 'log_loss': b}
    for seed, (a, b) in enumerate(zip(auc, losses, strict=True))
  }
  return Point(encoding, ratio, count, 4 * count, scores)


PLAIN = point('plain', 1, [0.70, 0.80], [0.5, 0.4])
HASHED = point('hashed', 4, [0.69, 0.79], [0.51, 0.43])


def study(*points, seeds=(0, 1)):
  return Study('data/log', 'test', 1000, seeds, points)


def last_row(of_study):
  """The last row of the table, without the spaces that align columns."""
  return ' '.join(markdown(of_study).splitlines()[-1].split())


def test_differences_are_taken_seed_by_seed():
  assert HASHED.spread('auc').deviation == pytest.approx(0.0707107, abs=1e-6)
  mean, deviation = HASHED.beyond(PLAIN, 'auc')
  assert mean == pytest.approx(-0.01)
  assert deviation == pytest.approx(0, abs=1e-12)


def test_only_seeds_that_both_have_are_compared():
  more = point('hashed', 4, [0.69, 0.79, 0.1], [0.5, 0.5, 0.9])
  assert more.beyond(PLAIN, 'auc').mean == pytest.approx(-0.01)


def test_one_seed_has_no_deviation():
  one = point('hashed', 4, [0.69], [0.51])
  assert math.isnan(one.spread('auc').deviation)
  row = last_row(study(PLAIN, one))
  assert '| 0.6900 | -0.0100 |' in row


def test_the_table_has_sizes_and_signed_differences():
  text = markdown(study(PLAIN, HASHED))
  row = last_row(study(PLAIN, HASHED))
  assert row.startswith(
    '| `hashed` | 4 | 250 | 1 kB | 4.00 | 0.7400 ± 0.0707 |'
  )
  assert row.endswith('| 0.4700 ± 0.0566 | +0.0200 ± 0.0141 |')
  assert 'over seeds 0, 1' in text
  assert 'So far' not in text


def test_a_study_that_is_not_finished_says_so():
  waiting = point('hashed', 16, [], [])
  assert 'So far 4 of 6 runs' in markdown(study(PLAIN, HASHED, waiting))


@pytest.mark.parametrize(
  'points',
  [
    [PLAIN, HASHED],
    [PLAIN, HASHED, point('hashed', 16, [], [])],
    [PLAIN, point('hashed', 16, [], [])],
    [PLAIN, point('hashed', 4, [math.nan], [math.nan])],
    [PLAIN, *(point(f'e{i}', 4, [0.7], [0.5]) for i in range(20))],
  ],
  ids=['whole', 'a ratio to come', 'only plain', 'nothing to rank', 'many'],
)
def test_the_picture_can_always_be_drawn(points):
  assert picture(study(*points)).startswith(b'\x89PNG')


def test_files_are_written_as_a_whole(tmp_path):
  write_study(study(PLAIN, HASHED), tmp_path)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['tradeoff.json', 'tradeoff.md', 'tradeoff.png']
