"""The importance of features: its file, and its section of a report."""

import json
import math
import re

import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.report import importance, run_page
from dlrm_jax.report.importance import FeatureLoss, Importance, LabelLosses
from tests.report.test_report import Page

METRICS = {
  'auc': 0.8,
  'auc_std_error': 0.01,
  'log_loss': 0.4,
  'log_loss_std_error': 0.02,
}
FEATURES = (
  FeatureLoss('C1', 0.03, 0.002, 0.001, 0.02, 0.003, math.nan),
  FeatureLoss('<C2>', 0.001, 0.0006, math.nan, 0.0, 0.0, 0.0),
  FeatureLoss('I1', -0.002, 0.0001, 0.0, *[math.nan] * 3),
  FeatureLoss('same', *[0.0] * 6, constant=True),
)


def found(labels=('click',), features=FEATURES, step=300):
  losses = LabelLosses.of(METRICS, features)
  return Importance(step, 'my & log', 9000, 5, 7, dict.fromkeys(labels, losses))


def write(path, importances):
  run_page.write_report(
    path,
    title='A run',
    results={},
    history=[{'step': 1, 'loss': 0.7}],
    tables=[],
    config={'a': 1},
    environment={'device': 'cpu'},
    objective=Objective(),
    importances=importances,
  )
  return path.read_text()


def words(text):
  return ' '.join(re.sub('<[^>]*>', ' ', text).split())


def test_the_section_has_the_table_and_the_bars(tmp_path):
  text = write(tmp_path / 'report.html', found())
  page = Page(text)
  assert not page.open
  assert not page.fetched
  section = text[text.index('<h2>Importance of features</h2>') :]
  section = section[: section.index('<h2>Configuration</h2>')]
  plain = words(section)
  about = 'Checkpoint of step 300, scored on 9,000 examples of my &amp; log;'
  assert about in plain
  assert 'C1 +0.03000 ± 0.00200 +0.02000 ± 0.00300' in plain
  assert '&lt;C2&gt; not told from 0 +0.00100 ± 0.00060 +0.00000' in plain
  assert 'I1 better permuted -0.00200 ± 0.00010 undefined' in plain
  assert 'same the same in all examples +0.00000' in plain
  assert 'Log-loss and AUC without permutation 0.40000 0.80000' in plain
  assert 'Correlated features share their importance' in plain
  for title in ('Increase of log-loss', 'Decrease of AUC'):
    assert f'<h3>{title}</h3><svg' in section
  assert section.count('>&lt;C2&gt;<') >= 2  # in the charts
  assert '<C2>' not in section


def test_the_bars_are_as_long_as_the_losses(tmp_path):
  text = write(tmp_path / 'report.html', found())
  start = text.index('Increase of log-loss</h3>')
  svg = text[start : text.index('</svg>', start)]
  widths = []
  for path in re.findall(r'<path d="([^"]*)"[^>]*fill: #3b82f6', svg):
    x = [float(point.split()[0]) for point in re.findall('[ML] ([^ML]*)', path)]
    widths.append(max(x) - min(x))
  assert len(widths) == 4
  assert widths[0] / widths[1] == pytest.approx(30, rel=1e-3)
  assert widths[3] / widths[1] == pytest.approx(2, rel=1e-3)
  assert widths[2] == 0


def test_each_label_has_its_own(tmp_path):
  text = write(tmp_path / 'report.html', found(('click', '<like>')))
  assert text.count('<h3>Increase of log-loss</h3>') == 2
  assert '<h3>&lt;like&gt;</h3>' in text
  ids = Page(text).ids
  assert len(ids) == len(set(ids))


def test_of_very_many_features_the_first_are_shown(tmp_path):
  zeros = [0.0] * 5
  features = [FeatureLoss(f'F{k}x', 1 - k / 200, *zeros) for k in range(150)]
  text = write(tmp_path / 'report.html', found(features=features))
  assert 'Increase of log-loss, first 40 features' in text
  assert '50 others, see importance.json' in text
  assert ('F99x' in text, 'F100x' in text) == (True, False)
  assert text.count('F39x') > text.count('F40x') == 1


def test_a_report_that_is_there_becomes_the_one_with_the_importance(tmp_path):
  path = tmp_path / 'report.html'
  want = write(tmp_path / 'want.html', found())
  write(path, None)
  for step in (100, 300, 300):
    run_page.add_importance(path, found(step=step))
  assert path.read_text() == want
  other = tmp_path / 'other.html'
  other.write_text('<p>mine</p>')
  run_page.add_importance(other, found())
  assert other.read_text() == '<p>mine</p>'


def test_the_file_keeps_everything(tmp_path):
  assert importance.read(tmp_path) is None
  importance.write(tmp_path, found())
  text = (tmp_path / importance.FILE).read_text()
  last = json.loads(text)['labels']['click']['features'][-1]
  assert last['auc_decrease'] is None
  assert str(importance.read(tmp_path)) == str(found())


@pytest.mark.parametrize('text', ['', '{', '[]', '{"labels": 3}', '{"a": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
  (tmp_path / importance.FILE).write_text(text)
  with pytest.raises(InputError, match=r'importance\.json: damaged .*remove'):
    importance.read(tmp_path)


def test_features_without_a_log_loss_keep_their_order():
  features = [FeatureLoss(name, *[math.nan] * 6) for name in 'ba']
  assert [f.feature for f in LabelLosses.of(METRICS, features).features] == [
    'b',
    'a',
  ]
  assert all(feature.note == '' for feature in features)
