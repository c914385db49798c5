import concurrent.futures
import dataclasses

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from dlrm_jax.batch import PAD
from dlrm_jax.data.schema import BLOCK_ROWS, join
from dlrm_jax.errors import InputError
from dlrm_jax.synthetic.log import Synthetic, optimum
from dlrm_jax.synthetic.planted import Strength, plant
from dlrm_jax.traces.power_law import probabilities

SPEC = Synthetic(train=10_000, validation=5_000, test=30_000)


def assert_equal(a, b):
  for x, y in zip(a[:3], b[:3], strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def whole(source):
  drawn = [source.draw(i) for i in range(len(source))]
  logits = np.concatenate([np.sum(logits[0], axis=0) for _, logits in drawn])
  return join([block for block, _ in drawn]), logits


def test_blocks_have_the_form_that_the_schema_says():
  source = SPEC.source('train')
  assert (source.examples, len(source)) == (10_000, 3)
  sizes = [len(source[i].labels) for i in range(3)]
  assert sizes == [BLOCK_ROWS, BLOCK_ROWS, 10_000 - 2 * BLOCK_ROWS]
  block = source[0]
  assert block.dense.dtype == block.labels.dtype == np.float32
  assert block.ids.dtype == np.int32
  assert block.dense.shape == (BLOCK_ROWS, len(SPEC.schema.dense))
  assert block.ids.shape == (BLOCK_ROWS, SPEC.schema.hotness)
  assert block.id_weights is None
  assert set(np.unique(block.labels)) == {0, 1}
  start = 0
  for column in SPEC.schema.sparse:
    bags = block.ids[:, start : start + column.hotness]
    assert bags.max() < column.rows
    assert bags.min() == (PAD if column.hotness > 1 else 0)
    assert np.all(np.diff((bags == PAD).astype(int), axis=1) >= 0)
    start += column.hotness


def test_a_block_is_the_same_in_any_order_and_thread():
  source = Synthetic(train=50_000).source('train')
  expected = [source[i] for i in range(len(source))]
  again = Synthetic(train=50_000).source('train')
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    order = list(reversed(range(len(source))))
    for i, block in zip(order, pool.map(again.__getitem__, order), strict=True):
      assert_equal(expected[i], block)


def test_blocks_do_not_depend_on_how_many_there_are():
  few, many = SPEC, dataclasses.replace(SPEC, train=1_000_000)
  assert_equal(few.source('train')[1], many.source('train')[1])


def test_blocks_splits_and_seeds_differ():
  other = dataclasses.replace(SPEC, seed=1)
  blocks = [
    SPEC.source('train')[0],
    SPEC.source('train')[1],
    SPEC.source('test')[0],
    other.source('train')[0],
  ]
  for i, a in enumerate(blocks):
    for b in blocks[:i]:
      assert not np.array_equal(a.dense, b.dense)


def test_fingerprint_tells_specs_apart():
  assert SPEC.fingerprint == dataclasses.replace(SPEC).fingerprint
  stronger = dataclasses.replace(SPEC, strength=Strength(additive=2.0))
  assert len({s.fingerprint for s in (SPEC, stronger, Synthetic())}) == 3


def drawn(spec, blocks=300):
  rng = np.random.default_rng(0)
  ids = [spec.ids.draw(rng, BLOCK_ROWS, 0, b)[0] for b in range(blocks)]
  return np.concatenate(ids, axis=None)


def test_ids_are_drawn_as_often_as_their_counts_say():
  spec = Synthetic(tables=(50,), hotness=(1,), train=300 * BLOCK_ROWS)
  got = np.bincount(drawn(spec), minlength=50)
  assert chisquare(got, spec.counts('C1')).pvalue > 1e-3


def test_the_rows_of_a_very_large_table_are_all_drawn():
  rows = 40_000_000
  ids = drawn(Synthetic(tables=(rows,), hotness=(1,)))
  ids = ids[ids >= rows // 2]  # there P(id) = 1 / (id log 2)
  repeated = len(ids) - len(np.unique(ids))
  expected = len(ids) ** 2 / 2 / (rows * np.log(2) ** 2)
  assert abs(repeated - expected) < 5 * np.sqrt(expected)


def test_a_fingerprint_says_that_ids_were_drawn_otherwise_once():
  before = 'b6c9d0ce7841e75b'  # of commit 9396860
  assert SPEC.details['ids'] == before  # they mean what they did
  assert SPEC.fingerprint == f'{before}, ids drawn in float64'


def test_interactions_add_nothing_to_any_one_feature():
  truth = plant(Strength(rank=3), 2, (40, 60), (1, 2.5), seed=3)
  for table, rows in zip(truth.tables, (40, 60), strict=True):
    mean = probabilities(rows, 1.0) @ table[:-1]
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_array_equal(table[PAD], 0)


def test_the_parts_of_the_logit_have_the_strength_asked_for():
  strength = Strength(bias=-1.0, additive=0.7, interaction=0.9)
  spec = dataclasses.replace(SPEC, strength=strength, test=100_000)
  source = spec.source('test')
  drawn = [source.draw(i)[1][0] for i in range(len(source))]
  additive, interaction = np.concatenate(drawn, axis=1)
  assert additive.mean() == pytest.approx(-1.0, abs=0.05)
  assert additive.std() == pytest.approx(0.7, abs=0.05)
  assert interaction.mean() == pytest.approx(0, abs=0.03)
  assert interaction.std() == pytest.approx(0.9, abs=0.05)


def test_optimum_is_that_of_the_true_probabilities():
  source = SPEC.source('test')
  block, logits = whole(source)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  best = optimum(source)['click']
  labels = block.labels[:, 0]
  auc = roc_auc_score(labels, p)
  assert best['auc'] == pytest.approx(auc, abs=1e-4)
  assert best['log_loss'] == pytest.approx(log_loss(labels, p))
  entropy = -np.mean(p * np.log(p) + (1 - p) * np.log1p(-p))
  assert best['log_loss'] == pytest.approx(entropy, abs=0.01)


def test_a_second_task_changes_nothing_of_the_first():
  two = dataclasses.replace(SPEC, tasks=2)
  assert two.schema.labels == ('click', 'conversion')
  assert two.fingerprint != SPEC.fingerprint
  a, b = SPEC.source('test')[0], two.source('test')[0]
  for x, y in zip(a[:3], b[:3], strict=True):
    np.testing.assert_array_equal(x, y[:, : x.shape[1]])
  clicks, conversions = b.labels.T
  assert 0 < conversions.sum() < clicks.sum()
  assert (clicks[conversions == 1] == 1).all()


def test_the_optimum_of_conversions_is_that_of_clicks_that_convert():
  source = dataclasses.replace(SPEC, tasks=2).source('test')
  drawn = [source.draw(i) for i in range(len(source))]
  p = np.prod(
    [
      expit(np.concatenate([np.sum(of[task], axis=0) for _, of in drawn]))
      for task in range(2)
    ],
    axis=0,
  )
  labels = join([block for block, _ in drawn]).labels[:, 1]
  best = optimum(source)['conversion']
  assert best['auc'] == pytest.approx(roc_auc_score(labels, p), abs=1e-4)
  assert best['log_loss'] == pytest.approx(log_loss(labels, p), rel=1e-5)
  assert best['calibration'] == pytest.approx(1, abs=0.05)


def test_clicks_come_as_often_as_their_probability_says():
  block, logits = whole(Synthetic(test=200_000).source('test'))
  p = 1 / (1 + np.exp(-logits))
  for low in np.arange(0, 1, 0.1):
    inside = (low <= p) & (p < low + 0.1)
    error = np.sqrt(0.25 / inside.sum())
    assert abs(block.labels[inside].mean() - p[inside].mean()) < 4 * error


def test_a_model_without_interactions_is_far_from_the_optimum():
  spec = dataclasses.replace(SPEC, tables=(30, 20), hotness=(1, 1))
  spec = dataclasses.replace(spec, train=60_000, dense=3)
  source = spec.source('test')

  def features(split):
    block, _ = whole(spec.source(split))
    one_hot = [np.eye(30)[block.ids[:, 0]], np.eye(20)[block.ids[:, 1]]]
    dense = [block.dense, np.abs(block.dense), np.sin(2 * block.dense)]
    return np.concatenate(one_hot + dense, axis=1), block.labels[:, 0]

  model = LogisticRegression(C=10.0, max_iter=300).fit(*features('train'))
  x, labels = features('test')
  auc = roc_auc_score(labels, model.decision_function(x))
  assert auc < optimum(source)['click']['auc'] - 0.05
  drawn = [source.draw(i)[1][0].additive for i in range(len(source))]
  best = roc_auc_score(labels, np.concatenate(drawn))
  assert auc == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'hotness': (1,)}, '8 tables but 1 hotness'),
    ({'tables': (3,) * 8}, 'expected 4 or more'),
    ({'train': 0}, 'train is 0'),
    ({'strength': Strength(rank=0)}, 'rank is 0'),
    ({'seed': -1}, 'seed -1'),
    ({'tasks': 3}, 'tasks is 3; expected 1 or 2'),
  ],
)
def test_a_wrong_spec_is_told(change, told):
  with pytest.raises(InputError, match=told):
    Synthetic(**change)


def test_an_unknown_split_is_told():
  with pytest.raises(InputError, match="'dev'; it has train, validation, test"):
    SPEC.source('dev')


def test_a_block_outside_is_an_index_error():
  for block in (-1, 3):
    with pytest.raises(IndexError):
      SPEC.source('train')[block]


def test_one_number_makes_all_tables_smaller():
  spec = Synthetic(train=10, tables=(1000, 500), hotness=(1, 1), size=0.05)
  assert [column.rows for column in spec.schema.sparse] == [50, 25]
  same = Synthetic(train=10, tables=(50, 25), hotness=(1, 1))
  assert_equal(spec.source('train')[0], same.source('train')[0])
  assert spec.fingerprint != dataclasses.replace(spec, size=1.0).fingerprint


@pytest.mark.parametrize('size', [0.0, -1.0, np.nan, np.inf])
def test_sizes_that_can_not_be_are_refused(size):
  with pytest.raises(InputError, match=f'size is {size}; expected a num'):
    Synthetic(size=size)


def test_tables_that_become_too_small_or_large_are_named():
  with pytest.raises(InputError, match=r'size 0.01, feature C8: rows is 1; sy'):
    Synthetic(size=0.01, tables=(9000,) * 7 + (100,))
  with pytest.raises(InputError, match=r'size 10000000.0, feature C1: rows is'):
    Synthetic(size=1e7)


def test_full_bags_have_as_many_ids_as_can_be():
  spec = Synthetic(train=4096, hotness=(5, 1), tables=(40, 30), full_bags=True)
  block = spec.source('train')[0]
  assert block.ids.min() >= 0
  assert spec.counts('C1').sum() == pytest.approx(5 * 4096)
  assert spec.fingerprint != dataclasses.replace(spec, size=2.0).fingerprint
  (truth,) = spec.truths
  law = probabilities(40, 1.0)
  variances = law @ truth.tables[0][:-1] ** 2
  (other,) = dataclasses.replace(spec, hotness=(1, 1)).truths
  np.testing.assert_allclose(
    5 * variances, law @ other.tables[0][:-1] ** 2, rtol=1e-4
  )
