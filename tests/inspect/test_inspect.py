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
  text = page.read_text(encoding='utf-8')
  assert 'I&lt;1&gt;' in text
  assert not re.search(r'(src|href)="(?!#)', text)
  assert text.count('<svg') == 3


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
