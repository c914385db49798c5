import html.parser
import re

import numpy as np
import pytest

from dlrm_jax.metrics import binary
from dlrm_jax.metrics.objective import Objective
from dlrm_jax.report import run_page
from dlrm_jax.training import sizes

VOID = {'meta', 'br', 'hr', 'link', 'img'}


class Page(html.parser.HTMLParser):
  """Open tags, ids, and attributes that could fetch something."""

  def __init__(self, text):
    super().__init__()
    self.open, self.ids, self.fetched, self.tags = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.handle_startendtag(tag, attributes)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append(tag)
    for name, value in attributes:
      if name == 'id':
        self.ids.append(value)
      fetches = name in ('src', 'href', 'xlink:href', 'action', 'data')
      if fetches and not value.startswith('#'):
        self.fetched.append(value)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def tally(n=3000, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(-1, 1, n)
  labels = rng.random(n) < 1 / (1 + np.exp(-logits))
  return binary.tally(logits, labels, np.ones(n))


def history(steps=6000, every=10):
  lines = []
  for step in range(every, steps + 1, every):
    speed = 1e5 + step % 7
    line = {'step': step, 'loss': 1 / step, 'examples_per_second': speed}
    lines.append(line)
    if step % 500 == 0:
      auc, log_loss = 0.8 - 1 / step, 0.4 + 1 / step
      lines.append(
        {'step': step, 'validation/auc': auc, 'validation/log_loss': log_loss}
      )
  return lines


def write(path, **changes):
  """Writes a report like that of a run; returns its text."""
  arguments = {
    'title': 'A run',
    'results': {'validation': tally(), 'test': tally(seed=1)},
    'history': history(),
    'tables': [
      sizes.TableSize('small', ['C1'], 10, 16, 640),
      sizes.TableSize('large', ['C2', 'C3'], 2**20, 16, 2**26),
    ],
    'config': {'model': {'top': [64, 1]}, 'seed': 0, 'note': None},
    'environment': {'device': '1 x cpu'},
    'objective': Objective(),
    'references': {'Bayes': {'auc': 0.8123, 'log_loss': 0.3}},
    'notes': ['Stopped early.'],
  }
  run_page.write_report(path, **{**arguments, **changes})
  return path.read_text(encoding='utf-8')


def words(text):
  """The text without its tags, spaces made single."""
  return ' '.join(re.sub('<[^>]*>', ' ', text).split())


def test_the_page_is_well_formed_and_loads_nothing(tmp_path):
  text = write(tmp_path / 'report.html')
  page = Page(text)
  assert not page.open
  assert not page.fetched
  assert len(page.ids) == len(set(page.ids))
  assert not {'script', 'link', 'img', 'iframe'} & set(page.tags)
  assert '@import' not in text
  assert not re.search(r'url\((?!#)', text)
  # What is left of addresses: names of the two XML languages.
  assert set(re.findall(r'https?://[^"\s]*', text)) == {
    'http://www.w3.org/2000/svg',
    'http://www.w3.org/1999/xlink',
  }


def test_references_in_charts_point_to_ids_of_the_page(tmp_path):
  text = write(tmp_path / 'report.html')
  targets = re.findall(r'(?:href="|url\()#([^")]*)', text)
  assert targets
  assert set(targets) <= set(Page(text).ids)


def test_it_holds_results_charts_tables_config_and_environment(tmp_path):
  text = write(tmp_path / 'report.html')
  got = binary.summarize(tally(seed=1))
  plain = words(text)
  error = f'± {got["auc_std_error"]:.5f}'
  assert f'AUC {got["auc"]:.5f} {error}, test' in plain
  assert f'{got["log_loss"]:.5f}' in plain
  assert f'{got["auc"]:.5f} {error}' in plain
  assert 'Bound of binning what counting by bins may cost the AUC ' in plain
  assert f'{got["auc_bin_bound"]:.1e}' in plain
  for title in (
    'Training loss',
    'AUC during training',
    'Log-loss during training',
    'Speed',
    'ROC',
    'Calibration',
  ):
    assert f'<h3>{title}</h3><svg' in text
  assert 'validation, best 0.79983 at step 6,000' in plain
  assert 'Bayes 0.81230' in plain
  assert 'model.top [64, 1]' in plain
  assert 'note null' in plain
  assert 'device 1 x cpu' in plain
  assert 'Steps 6,000' in plain
  assert 'Stopped early.' in plain


def test_tables_stand_by_size_with_their_total(tmp_path):
  plain = words(write(tmp_path / 'report.html'))
  assert (
    'large C2, C3 1,048,576 16 67.1 MB small C1 10 16 640 B'
    ' 2 in all 1,048,586 67.1 MB'
  ) in plain


def test_of_very_many_tables_the_largest_are_shown(tmp_path):
  tables = [sizes.TableSize(f't{i}', [], i, 1, 4 * i) for i in range(150)]
  plain = words(write(tmp_path / 'report.html', tables=tables))
  assert 't50 50 1' in plain
  assert 't49 49 1' not in plain
  assert '50 smaller ones' in plain
  assert '150 in all 11,175' in plain


def test_equal_arguments_give_an_equal_small_file(tmp_path):
  first = write(tmp_path / 'first.html', history=history(steps=100_000))
  second = write(tmp_path / 'second.html', history=history(steps=100_000))
  assert first == second
  assert len(first) < 500_000
  assert {p.name for p in tmp_path.iterdir()} == {'first.html', 'second.html'}


def test_what_came_from_outside_is_escaped(tmp_path):
  bad = '<b>&"$x$_'
  text = write(
    tmp_path / 'report.html',
    title=bad,
    results={bad: tally()},
    history=[{'step': 1, f'{bad}/auc': 0.7}],
    tables=[sizes.TableSize(bad, [bad], 1, 1, 4)],
    config={bad: {'x': bad}},
    environment={bad: bad},
    references={bad: {'auc': 0.8}},
    notes=[bad],
  )
  page = Page(text)
  assert not page.open
  assert bad not in text
  assert '&lt;b&gt;&amp;&quot;$x$_' in text


def test_after_a_resumed_run_the_later_line_of_a_step_counts(tmp_path):
  lines = [
    {'step': 10, 'validation/auc': 0.9},
    {'step': 20, 'validation/auc': 0.95},
    {'step': 10, 'validation/auc': 0.7},
    {'step': 20, 'validation/auc': 0.75},
  ]
  text = write(tmp_path / 'report.html', history=lines)
  assert 'validation, best 0.75000 at step 20' in text


@pytest.mark.parametrize(
  'changes',
  [
    {'history': []},
    {'results': {}},
    {'tables': []},
    {'references': None, 'notes': []},
    {'history': [{'step': 1, 'loss': 0.7}]},
    {'history': [{'step': 1, 'loss': float('nan')}, {'step': 2, 'loss': None}]},
    {'results': {'test': binary.empty()}},
    {'results': {'test': binary.tally([1.0, 2.0], [1, 1], [1, 1])}},
    {'results': {'test': binary.tally([-40.0], [0], [1])}},
    {'config': {}, 'environment': {}},
  ],
)
def test_what_is_missing_is_left_out(tmp_path, changes):
  text = write(tmp_path / 'report.html', **changes)
  assert not Page(text).open
  assert 'nan' not in words(text)


def test_environment_names_device_and_versions():
  found = run_page.environment()
  assert {'device', 'backend', 'python', 'jax', 'optax'} <= set(found)


def test_more_splits_than_colours_are_all_drawn(tmp_path):
  results = {f'split {k}': tally(seed=k) for k in range(6)}
  page = write(tmp_path / 'report.html', results=results)
  roc = page[page.index('ROC') :]
  assert all(f'>split {k}<' in roc for k in range(6))


def test_the_objective_is_drawn(tmp_path):
  lines = [{'step': k, 'validation/ne': 0.9 - k / 10} for k in range(3)]
  objective = Objective('ne', higher=False)
  page = write(tmp_path / 'report.html', history=lines, objective=objective)
  assert 'Normalised entropy during training' in page
  assert 'best 0.70000 at step 2' in page
