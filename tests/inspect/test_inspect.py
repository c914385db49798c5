"""The inspect command: what it finds, writes and refuses."""

import json
import re

import numpy as np
import pytest

from dlrm_jax.data.schema import Block, Column, Schema
from dlrm_jax.inspect.__main__ import main
from tests.sets import write_set


def made(folder, splits, weighted=False):
  """A set of one hashed feature and one bag; test ids are 100 higher."""

  def block(name, n):
    rng = np.random.default_rng(n)
    ids = rng.integers(0, 100, (n, 4)).astype(np.int32)
    ids[:, 0] += 100 * (name == 'test')
    ids[: n // 4, 1:] = -1
    dense = rng.normal(size=(n, 1)).astype(np.float32)
    weights = np.ones_like(ids, np.float32) if weighted else None
    return Block(dense, ids, (dense > 0).astype(np.float32), weights)

  schema = Schema(('I<1>',), (Column('C1', 1000), Column('bag', 100, 3)))
  write_set(folder, schema, {name: block(name, n) for name, n in splits})
  return str(folder)


@pytest.mark.parametrize('weighted', [False, True])
def test_it_finds_what_is_in_a_set(tmp_path, capsys, weighted):
  splits = [('train', 9000), ('test', 2000)]
  data = made(tmp_path / 'set', splits, weighted)
  page, numbers = tmp_path / 'page.html', tmp_path / 'numbers.json'
  assert main([data, f'--output={page}', f'--json={numbers}']) == 0
  out = capsys.readouterr().out
  assert 'read all 3 blocks of split train: 9,000 rows' in out
  assert 'bag: 2.25 ids an example, at most 3' in out
  assert max(map(len, out.splitlines())) <= 120
  found = json.loads(numbers.read_text())
  one, bag = found['sparse']
  assert one['unseen'] == 1
  assert one['psi'] > 1
  assert one['missing'] is None
  assert bag['missing'] == pytest.approx(0.25)
  assert bag['psi'] < 0.05
  assert bag['lengths'] == [2250, 0, 0, 6750]
  assert found['dense'][0]['auc'] > 0.95
  assert found['labels']['test']['click']['missing'] == 0
  assert 'the first label' not in out
  text = page.read_text(encoding='utf-8')
  assert 'I&lt;1&gt;' in text
  assert not re.search(r'(src|href)="(?!#)', text)
  assert text.count('<svg') == 3
  assert '<h2>Labels</h2>' not in text


def test_each_of_several_labels_is_counted(tmp_path, capsys):
  """Features are related to the first one."""

  def block(n):
    ids = np.random.default_rng(n).integers(0, 7, (n, 2), np.int32)
    labels = np.zeros((n, 2), np.float32)
    labels[ids[:, 0] == 3, 0] = 1
    labels[: n // 4, 1], labels[n // 4 : n // 2, 1] = np.nan, 1
    labels[:10, 0] = np.nan
    return Block(np.zeros((n, 0), np.float32), ids, labels)

  schema = Schema((), (Column('a', 7), Column('b', 7)), ('like', 'b<y'))
  splits = {'train': block(4000), 'test': block(800)}
  data, page = tmp_path / 'set', tmp_path / 'page.html'
  write_set(data, schema, splits)
  numbers = tmp_path / 'numbers.json'
  assert main([str(data), f'--output={page}', f'--json={numbers}']) == 0
  positives = int(np.nansum(splits['train'].labels[:, 0]))
  found = json.loads(numbers.read_text())['labels']['train']
  assert found == {
    'like': {
      'rows': 3990,
      'positives': positives,
      'missing': 10,
      'rate': pytest.approx(positives / 3990),
      'missing_share': 0.0025,
    },
    'b<y': {
      'rows': 3000,
      'positives': 1000,
      'missing': 1000,
      'rate': pytest.approx(1 / 3),
      'missing_share': 0.25,
    },
  }
  out = capsys.readouterr().out
  lines = [' '.join(line.split()) for line in out.splitlines()]
  assert 'train 4,000 rows' in lines
  assert max(len(x) for x in lines if str(tmp_path) not in x) <= 120
  assert 'b<y 1,000 positive, rate 0.3333; 1,000 rows (25.00%) lack it' in lines
  note = 'features are related to like, the first label; rows without it are'
  assert note in out
  assert 'WARNING: a alone tells like=1 from others (AUC 1.0000)' in out
  text = page.read_text(encoding='utf-8')
  assert note in text
  assert 'Like rate over time' in text
  assert (
    '<th>train</th><th>b&lt;y</th><td>3,000</td><td>1,000</td>'
    '<td>0.3333</td><td>1,000</td><td>0.2500</td>'
  ) in text


def test_a_sample_is_said_to_be_one_and_test_may_be_absent(tmp_path, capsys):
  data = made(tmp_path / 'set', [('train', 9000)])
  assert main([data, '--sample=1', f'--output={tmp_path / "page.html"}']) == 0
  assert 'read 1 random of 3 blocks of split train' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'why'),
  [
    (['absent'], 'absent is not a prepared set'),
    ([], 'required: DATA'),
    (['absent', '--sample=0'], '--sample=0: expected 1 or more'),
    (['absent', '--json=no/such.json'], 'no is no folder; make it'),
  ],
)
def test_a_mistake_is_one_line(capsys, flags, why):
  assert main(flags) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  assert why in line


def test_a_feature_that_alone_tells_the_label_is_warned_of(tmp_path, capsys):
  def block(n):
    ids = np.random.default_rng(n).integers(0, 7, (n, 2), np.int32)
    labels = (ids[:, :1] == 3).astype(np.float32)
    return Block(np.zeros((n, 0), np.float32), ids, labels)

  schema = Schema((), (Column('leak', 7), Column('good', 7)))
  splits = {'train': block(4000), 'test': block(900)}
  write_set(tmp_path / 'set', schema, splits)
  assert main([str(tmp_path / 'set')]) == 0
  (line,) = [
    line for line in capsys.readouterr().out.splitlines() if 'WARNING' in line
  ]
  assert 'leak alone tells clicks from others (AUC 1.0000)' in line
