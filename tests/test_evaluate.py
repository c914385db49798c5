"""What an evaluation of other data says, of a small run of the version before.

The run in the archive of test_old.py is evaluated in this process.
"""

import json
import pathlib

import numpy as np
import polars as pl
import pytest

from dlrm_jax import evaluate
from dlrm_jax.build import trained
from dlrm_jax.build.data import identity
from dlrm_jax.configs import default
from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.errors import InputError
from dlrm_jax.prepare import notes, pipeline
from dlrm_jax.prepare.preparation import Settings, preparation_of
from dlrm_jax.prepare.readers import formats
from dlrm_jax.prepare.readers.formats import reader_of
from dlrm_jax.prepare.resources import default_memory
from dlrm_jax.run import workdir
from dlrm_jax.run.scores import GROUPS
from tests.archives import unpack

ARCHIVE = pathlib.Path(__file__).parent / 'old/written_by_9396860.tar.gz'


@pytest.fixture
def old(tmp_path, monkeypatch):
  unpack(ARCHIVE, tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def evaluated(old, capsys):
  """Evaluates; lines that were printed, and the JSON."""

  def run(*flags):
    assert evaluate.main(['--workdir=finished', *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    return lines, json.loads(lines[-1])

  return run


@pytest.fixture
def refused(old, capsys):
  def run(*flags):
    assert evaluate.main(['--workdir=finished', *flags]) == 1
    return capsys.readouterr().err

  return run


def new(**columns):
  """new.csv with other columns."""
  return pl.read_csv('new.csv', infer_schema=False).with_columns(**columns)


def test_the_share_of_unknown_ids_is_told_by_feature(evaluated):
  frame = new().with_row_index('row')
  changed = pl.when(pl.col('row') < 20).then(pl.lit('who')).otherwise('user')
  frame.select(pl.exclude('row', 'user'), user=changed).write_csv('some.csv')
  lines, said = evaluated('--data=some.csv')
  shares = said['unknown_ids']
  assert shares['features']['user'] == {'share': 0.25, 'training': 0}
  assert shares['features']['item'] == {'share': 0, 'training': 0}
  assert 'site' not in shares['features']  # hashed
  (line,) = [line for line in lines if line.startswith('unknown ids: ')]
  assert line.endswith('(in training 0.0%); most: user 25.0% (0.0%)')
  assert not any('WARNING' in line for line in lines)


def test_a_log_of_other_values_is_warned_of(evaluated):
  other = new(user='u_' + pl.col('user'), item=pl.lit('987'), tags=pl.lit('no'))
  other.write_csv('other.csv')
  lines, said = evaluated('--data=other.csv')
  assert said['unknown_ids']['share'] == 1
  (line,) = [line for line in lines if line.startswith('WARNING')]
  assert '100.0% of the ids are unknown' in line


def test_splits_of_a_set_say_their_unknown_ids_too(evaluated):
  _, said = evaluated('--split=validation')
  assert set(said['unknown_ids']['features']) == {'user', 'item', 'tags'}


def test_one_class_is_said(evaluated):
  new(click=pl.lit(0)).write_csv('one.csv')
  lines, said = evaluated('--data=one.csv')
  assert said['metrics']['auc'] is None
  assert any('one.csv has no clicks: AUC' in line for line in lines)
  assert all(x['ratio'] is None for x in said['calibration_groups'])


def test_calibration_is_told_by_group_of_predictions(evaluated):
  lines, said = evaluated('--data=new.csv')
  groups, metrics = said['calibration_groups'], said['metrics']
  examples = np.array([group['examples'] for group in groups])
  assert len(groups) == GROUPS
  assert examples.sum() == metrics['examples']
  for name, mean in (('predicted', 'mean_prediction'), ('actual', 'base_rate')):
    found = np.average([group[name] for group in groups], weights=examples)
    assert found == pytest.approx(metrics[mean], rel=1e-4)
  assert [x['predicted'] for x in groups] == sorted(
    x['predicted'] for x in groups
  )
  title = 'calibration of new.csv, by group of predictions'
  table = lines[lines.index(title) + 1 :][: 1 + len(groups)]
  assert table[0].split() == ['examples', 'predicted', 'actual', 'ratio']
  assert float(table[-1].split()[1]) == pytest.approx(
    groups[-1]['predicted'], abs=1e-5
  )


def test_a_folder_of_part_files_is_as_one_file(old, evaluated):
  folder = old / 'parts'
  folder.mkdir()
  frame, size = new(), 7
  for number, start in enumerate(range(0, frame.height, size)):
    part = folder / f'part-{number}.csv'  # 10 comes after 9
    frame[start : start + size].write_csv(part)
  (folder / '_SUCCESS').touch()
  (folder / 'part-3.csv.crc').touch()
  (folder / '.part-3.csv.crc').write_bytes(b'crc')
  _, said = evaluated('--data=parts/part-?.csv', 'parts/part-??.csv')
  want = json.loads((old / 'evaluated.json').read_text())['metrics']
  assert said['metrics']['auc'] == want['auc']
  assert said['metrics']['log_loss'] == pytest.approx(want['log_loss'])
  files = formats.files_of('csv', ['parts'])
  assert files == [f'parts/part-{k}.csv' for k in range(len(files))]


def test_several_sets_or_a_set_and_a_file_are_refused(refused):
  assert 'set is a prepared set' in refused('--data', 'new.csv', 'set')
  assert 'raw file and has no splits' in refused(
    '--data=new.csv', '--split=test'
  )
  assert 'nothing.csv: no such file' in refused('--data=nothing.csv')
  assert 'finished: has folders within' in refused('--data=finished')


def test_a_set_without_split_test_says_its_splits(old, refused):
  prepared('log.csv', 'trained', 'string', 'train=1')
  assert 'no split test; name another one: it has train' in refused(
    '--data=trained'
  )


def test_bad_rows_and_lost_ones_are_in_the_json(old, evaluated, refused):
  text = (old / 'new.csv').read_text().splitlines()
  text[3] = 'broken'
  (old / 'bad.csv').write_text('\n'.join(text))
  assert 'bad.csv, line 4' in refused('--data=bad.csv')
  _, said = evaluated('--data=bad.csv', '--on_bad_row=skip')
  assert said['bad_rows']['counts'] == {'wrong number of columns': 1}


def prepared(log, output, site, splits='train=1/2,test=1/2'):
  """A set like that of the archive; `site`: what its hashed values are."""
  raw = {
    'format': 'csv',
    'label': 'click',
    'sparse': {'site': {'ids': 'hashed', 'rows': 16, 'values': site}},
  }
  options = Settings(splits)
  job = preparation_of(reader_of(raw), {'all': [log]}, options, raw)
  pipeline.prepare_set(job, output, default_memory())
  return open_prepared(output)


def test_ids_hashed_of_other_kinds_of_values_do_not_fit(old):
  new(site=pl.lit('7')).write_csv('sevens.csv')
  text, number, again = (
    prepared('sevens.csv', name, kind)
    for name, kind in (('a', 'string'), ('b', 'integer'), ('c', 'string'))
  )
  known = identity(text)
  trained.check_fits(again, known)
  with pytest.raises(
    InputError, match=r'site .* integer .* trained on .*string'
  ):
    trained.check_fits(number, known)
  # What was written before kinds were kept goes on fitting.
  del known['values']
  trained.check_fits(number, known)


def test_the_config_of_an_older_run_says_the_kinds_of_its_values(old, refused):
  # The run of the archive hashed texts. Nothing but the kind differs here.
  described = json.loads((old / 'set' / 'metadata.json').read_text())
  assert 'values' not in described['details']
  defaults = default.get_config().to_dict()
  run = trained.trained(*workdir.read_settings(old / 'finished', defaults))
  assert trained.kinds_of_run(run)['site'] == 'string'
  assert trained.kinds_of_run(run)['item'] == 'integer'


def test_parts_of_other_kinds_of_values_are_not_one_set():
  parts = [{'parts': [{'types': {'u': t}}]} for t in ('Int64', 'String')]
  assert notes.column_kinds(parts[:1] * 2) == {'u': 'integer'}
  with pytest.raises(InputError, match=r'u: .* integer in one .* string in'):
    notes.column_kinds(parts)
