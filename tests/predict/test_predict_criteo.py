"""Criteo logs, with labels and without, and other files of their columns."""

import gzip
import io
import random

import numpy as np
import polars as pl
import pytest

from dlrm_jax.errors import InputError
from dlrm_jax.predict.__main__ import main
from dlrm_jax.prepare.criteo.settings import CriteoSettings
from dlrm_jax.scoring import stream
from dlrm_jax.scoring.load import load
from tests import scored, sets

NAMES = [f'I{n}' for n in range(1, 14)] + [f'C{n}' for n in range(1, 27)]


def lines_of(seed, count):
  """Lines of Criteo, each as 40 texts."""
  chance = random.Random(seed)
  return [
    [
      str(chance.randrange(2)),
      *(str(chance.choice([-1, 0, 3, 70, ''])) for _ in range(13)),
      *(chance.choice(['68fd1e64', '00000abc', 'ff', '']) for _ in range(26)),
    ]
    for _ in range(count)
  ]


def text_of(lines, first=0):
  return ''.join('\t'.join(line[first:]) + '\n' for line in lines)


LINES = lines_of(0, 200)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('criteo')
  (folder / 'log.txt').write_text(text_of(LINES))
  settings = CriteoSettings(splits=scored.SPLITS, shuffle=False)
  data = sets.prepare_criteo(
    {'all': [str(folder / 'log.txt')]}, str(folder / 'set'), settings
  )
  return scored.made(folder / 'run', scored.config_of(data.directory))


@pytest.fixture(scope='module', params=['workdir', 'export'])
def model(run, request, tmp_path_factory):
  if request.param == 'workdir':
    return load(run.folder)
  output = tmp_path_factory.mktemp('exported') / 'export'
  return load(scored.exported(run, output))


@pytest.fixture(scope='module')
def want(run):
  blocks = [
    scored.blocks_of(run.data, name) for name in ('train', 'validation', 'test')
  ]
  return np.concatenate([run.probabilities(x) for x in blocks])[:, 0]


def check(found, want):
  # Batches of other sizes: rounding of numbers up to 1e5 in the first product.
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('first', [0, 1])
def test_lines_with_and_without_a_label(model, tmp_path, want, first):
  (tmp_path / 'new.txt').write_text(text_of(LINES, first))
  check(model.predict(tmp_path / 'new.txt'), want)
  assert np.std(want) > 0.01


def frame():
  columns = zip(*[line[1:] for line in LINES], strict=True)
  return pl.DataFrame(dict(zip(NAMES, columns, strict=True)))


def test_columns_by_name(model, tmp_path, want):
  """Categories are hex text; numbers may be text or numbers."""
  named = frame()
  numbers = named.with_columns(
    pl.col(NAMES[:13]).replace('', None).cast(pl.Int64),
    pl.col(NAMES[13:]).replace('', None),
  )
  for rows in (named, numbers, numbers.to_dict(as_series=False)):
    check(model.predict(rows), want)
  named.write_csv(tmp_path / 'new.csv')
  named.write_csv(tmp_path / 'tabs.tsv', separator='\t')
  numbers.write_parquet(tmp_path / 'new.parquet')
  for name in ('new.csv', 'tabs.tsv', 'new.parquet'):
    check(model.predict(tmp_path / name), want)


@pytest.mark.parametrize(
  ('first', 'cells', 'words'),
  [
    (0, 39, ['line 5', '39 columns', '40 between tabs', 'label']),
    (0, 3, ['line 5', '3 columns', '40 between tabs']),
    (1, 38, ['line 5', '38 columns', '39 between tabs', 'I1', 'C26']),
    (1, 41, ['line 5', '41 columns', '39 between tabs']),
  ],
)
def test_a_wrong_number_of_columns(model, tmp_path, first, cells, words):
  lines = [line[first:] for line in LINES[:9]]
  lines[4] = (lines[4] * 2)[:cells]
  path = tmp_path / 'new.txt'
  path.write_text(text_of(lines))
  with pytest.raises(InputError) as caught:
    model.predict(path)
  assert str(path) in str(caught.value)
  for word in words:
    assert word in str(caught.value)


@pytest.mark.parametrize('first', [0, 1])
def test_a_bad_value_is_named(model, tmp_path, first):
  lines = [list(line) for line in LINES[:9]]
  lines[6][1 + 13 + 5] = 'xyz'
  (tmp_path / 'new.txt').write_text(text_of(lines, first))
  with pytest.raises(InputError, match=r"new.txt, line 7, column C6: .*'xyz'"):
    model.predict(tmp_path / 'new.txt')


def test_lines_of_another_log(model, tmp_path):
  (tmp_path / 'new.txt').write_text('some words\nand more\n')
  with pytest.raises(InputError, match=r'lines of a Criteo log, .* I1, '):
    model.predict(tmp_path / 'new.txt')


def test_names_that_are_not_all_there(model, tmp_path):
  frame().drop('C7').write_csv(tmp_path / 'new.csv')
  with pytest.raises(InputError, match=r"new.csv has no column 'C7'"):
    model.predict(tmp_path / 'new.csv')


@pytest.mark.parametrize('first', [0, 1])
def test_lines_of_standard_input(run, tmp_path, want, monkeypatch, first):
  """In pieces; each has labels or not as the first one has."""
  monkeypatch.setattr(stream, '_BYTES', 5_000)
  monkeypatch.setattr(stream, '_BLOCK', 333)
  lines = [list(line) for line in LINES]
  for bad in (0, 99, 199):
    lines[bad][20] = 'xyz'
  content = io.BytesIO(text_of(lines, first).encode())
  monkeypatch.setattr('sys.stdin', io.TextIOWrapper(content))
  output = tmp_path / 'x.parquet'
  flags = '--data=-', f'--output={output}', '--on_bad_row=skip'
  assert main([f'--workdir={run.folder}', *flags]) == 0
  found = pl.read_parquet(output)['probability']
  assert found.is_null().arg_true().to_list() == [0, 99, 199]
  good = np.setdiff1d(np.arange(200), [0, 99, 199])
  check(found.drop_nulls(), want[good])


def test_columns_of_lines_are_kept_by_their_names(run, tmp_path):
  lines = [line.copy() for line in LINES[:6]]
  lines[3][5] = 'no number'
  (tmp_path / 'new.txt').write_text(text_of(lines))
  flags = f'--data={tmp_path}/new.txt', f'--output={tmp_path}/x.csv'
  flags += '--keep=C3,label,I2', '--on_bad_row=skip'
  assert main([f'--workdir={run.folder}', *flags]) == 0
  found = pl.read_csv(tmp_path / 'x.csv', infer_schema=False)
  assert found.columns == ['C3', 'label', 'I2', 'probability']
  for line, row in zip(lines, found.rows(), strict=True):
    label, integer, text = line[0], line[2], line[16]
    want = text.rjust(8, '0') if text else None, label, integer or None
    bad = line is lines[3]
    assert row[:3] == ((None, None, None) if bad else want)
    assert (row[3] is None) == bad


def test_a_column_that_lines_do_not_have_cannot_be_kept(run, tmp_path, capsys):
  (tmp_path / 'new.txt').write_text(text_of(LINES, 1))
  flags = f'--data={tmp_path}/new.txt', f'--output={tmp_path}/x.csv'
  for name in ('id', 'label'):  # they have no label
    assert main([f'--workdir={run.folder}', *flags, f'--keep={name}']) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f'--keep={name}' in said
    assert f"no column '{name}'" in said


def test_a_cut_archive_is_refused_though_bad_rows_are_skipped(
  run, tmp_path, capsys
):
  """What is lost of it could not keep its places in the output."""
  packed = gzip.compress(text_of(LINES).encode())
  (tmp_path / 'new.gz').write_bytes(packed[: len(packed) // 2])
  flags = f'--data={tmp_path}/new.gz', f'--output={tmp_path}/x.csv'
  assert main([f'--workdir={run.folder}', *flags, '--on_bad_row=skip']) == 1
  (said,) = capsys.readouterr().err.splitlines()
  assert 'damaged gzip' in said
  assert 'copy it again' in said
  assert not (tmp_path / 'x.csv').exists()
