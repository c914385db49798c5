"""Splits in file order."""

import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.splits import DEFAULT, parse_splits, rows_of_splits


def sizes(rows, text):
  return [
    len(part) for part in rows_of_splits(rows, parse_splits(text)).values()
  ]


def test_the_default_cuts_kaggle_as_the_reference_does():
  assert sizes(45_840_617, DEFAULT) == [39_291_958, 3_274_330, 3_274_329]
  assert sizes(117_335, DEFAULT) == [100_573, 8_381, 8_381]


def test_decimals_are_exact():
  assert sizes(10, 'train=0.7,test=0.3') == [7, 3]
  assert sizes(1000, 'train=0.1,a=0.2,b=0.7') == [100, 200, 700]


def test_splits_cover_all_rows_in_order():
  shares = parse_splits('train=0.333333,a=0.333333,b=0.333334')
  for rows in (1, 2, 3, 10, 1001):
    cut = rows_of_splits(rows, shares)
    assert [i for part in cut.values() for i in part] == list(range(rows))


@pytest.mark.parametrize(
  ('text', 'why'),
  [
    ('train=0.5,test=0.4', 'sum to 0.9'),
    ('a=0.5,b=0.5', 'no split is named train'),
    ('train=0.5,train=0.5', 'each name once'),
    ('train=0.5,=0.5', "'' is no name"),
    ('train=0.5,all=0.5', 'not "all"'),
    ('train=0.5,a-b=0.5', "'a-b' is no name"),
    ('train=0.5,a=half', "the share of a is 'half'"),
    ('train=1/0', "the share of train is '1/0'"),
    ('train=1.5,test=-0.5', "the share of train is '1.5'"),
    ('train=1,test=0', "the share of test is '0'"),
    ('train', "the share of train is ''"),
    ('', "'' is no name"),
  ],
)
def test_wrong_splits_say_what_is_wrong(text, why):
  with pytest.raises(InputError, match=why):
    parse_splits(text)
