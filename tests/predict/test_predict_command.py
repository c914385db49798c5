"""`python -m dlrm_jax.predict`: files of rows to files of probabilities."""

import contextlib
import gzip
import io
import shutil
import signal
from unittest import mock

import numpy as np
import polars as pl
import pytest

from dlrm_jax.predict import columns
from dlrm_jax.predict.__main__ import main
from dlrm_jax.scoring import stream
from dlrm_jax.scoring.load import load
from tests import commands, scored


@pytest.fixture(scope='module')
def model(plain):
  return load(plain.folder)


@pytest.fixture(scope='module')
def want(model):
  """Probabilities of the rows of the log."""
  return model.predict(
    scored.columns_of(scored.rows_of(0), model.intake.schema)
  )


@pytest.fixture
def log(tmp_path):
  path = tmp_path / 'rows.csv'
  path.write_text(scored.csv_of(scored.rows_of(0)))
  return path


@pytest.fixture(autouse=True)
def one_model(model):
  """Compiled once for all commands of these tests."""
  with mock.patch('dlrm_jax.scoring.load.load', return_value=model):
    yield


def predict(output, *flags, status=0, workdir='run'):
  """Runs the command; returns what it wrote."""
  flags = [f'--workdir={workdir}', f'--output={output}', *map(str, flags)]
  assert main(flags) == status
  if status:
    return None
  read = {'.csv': pl.read_csv, '.parquet': pl.read_parquet}[output.suffix]
  return read(output, glob=False)


def check(found, want):
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_a_probability_for_each_row(log, tmp_path, want, suffix, capsys):
  output = tmp_path / f'scores.{suffix}'
  found = predict(output, f'--data={log}')
  assert found.columns == ['probability']
  check(found['probability'], want)
  assert f'{output}: 400 rows\n' in capsys.readouterr().out
  if suffix == 'parquet':
    assert found.schema == {'probability': pl.Float32}
    assert (found['probability'].to_numpy() == want).all()


def test_two_tasks_have_a_column_each(two_labels, log, tmp_path):
  model = load(two_labels.folder)
  with mock.patch('dlrm_jax.scoring.load.load', return_value=model):
    found = predict(tmp_path / 'scores.csv', f'--data={log}')
  assert found.columns == ['probability_click', 'probability_buy']
  check(found.to_numpy(), model.predict(log))


def test_columns_to_keep_come_first_and_in_their_order(log, tmp_path, want):
  for suffix in ('csv', 'parquet'):
    output = tmp_path / f'scores.{suffix}'
    found = predict(output, f'--data={log}', '--keep=word,id,click,price')
    assert found.columns == ['word', 'id', 'click', 'price', 'probability']
    assert found['id'].cast(pl.Int64).to_list() == list(range(1000, 1400))
    rows = scored.rows_of(0)
    assert found['word'].fill_null('').to_list() == [r['word'] for r in rows]
    check(found['probability'], want)


def test_columns_of_parquet_keep_their_types(model, tmp_path, want):
  frame = scored.frame_of(scored.rows_of(0), model.intake.schema)
  times = pl.datetime_range(
    pl.datetime(2020, 1, 1), pl.datetime(2020, 1, 1, 6, 39), '1m', eager=True
  )
  frame = frame.with_columns(times.alias('when'))
  frame.write_parquet(tmp_path / 'rows.parquet')
  found = predict(
    tmp_path / 'scores.parquet',
    f'--data={tmp_path}/rows.parquet',
    '--keep=when,tags,id',
  )
  kept = frame.select('when', 'tags', 'id')
  assert found.drop('probability').equals(kept)
  assert found.schema['when'] == kept.schema['when']
  check(found['probability'], want)


def test_files_folders_globs_and_packed_files_in_order(tmp_path, want):
  rows = scored.rows_of(0)
  parts = [scored.csv_of(rows[a : a + 100]) for a in range(0, 400, 100)]
  folder = tmp_path / 'parts'
  folder.mkdir()
  for number in (0, 1):
    (folder / f'part_{number * 9 + 1}.csv').write_text(parts[number])
  (folder / '_SUCCESS').write_text('')
  packed = tmp_path / 'c.csv.gz'
  packed.write_bytes(gzip.compress(parts[2].encode()))
  (tmp_path / 'd.csv').write_text(parts[3])
  output = tmp_path / 'scores.csv'
  keep = '--keep=id'
  for data in (
    ['--data', folder, packed, tmp_path / 'd.csv'],
    [
      f'--data={folder}/part_*.csv',
      f'--data={packed}',
      f'--data={tmp_path}/d*',
    ],
  ):
    found = predict(output, *data, keep)
    assert found['id'].to_list() == list(range(1000, 1400))
    check(found['probability'], want)


def test_an_export_and_a_prepared_set(plain, export, tmp_path, want):
  model = load(export)
  with mock.patch('dlrm_jax.scoring.load.load', return_value=model):
    found = predict(tmp_path / 'test.csv', f'--data={plain.data}')
    check(found['probability'], want[300:])
    flags = f'--data={plain.data}', '--split=train'
    check(predict(tmp_path / 'train.csv', *flags)['probability'], want[:200])


def bad_lines(places, rows=12):
  """The text of a log of which some rows are bad: those of other columns."""
  lines = scored.csv_of(scored.rows_of(0, rows)).splitlines()
  for place, cells in places.items():
    old = lines[place + 1].split(',')
    lines[place + 1] = (
      f'{old[0]},1,2'
      if cells is None
      else ','.join([old[0], *old[1:3], cells, *old[4:]])
    )
  return '\n'.join(lines) + '\n'


@pytest.mark.parametrize('keep', [(), ('--keep=id',)])
@pytest.mark.parametrize(
  'places',
  [
    {0: None},
    {0: 'cheap', 1: 'cheap'},
    {5: None, 6: 'cheap', 8: 'cheap'},
    {11: 'cheap'},
    {10: 'cheap', 11: None},
    {0: None, 5: 'cheap', 11: None},
    dict.fromkeys(range(12)),
    dict.fromkeys(range(12), 'cheap'),
    dict.fromkeys(range(11), 'cheap'),
    dict.fromkeys(range(1, 12)),
  ],
  ids=str,
)
def test_bad_rows_keep_their_place(tmp_path, want, places, keep, capsys):
  path = tmp_path / 'rows.csv'
  path.write_text(bad_lines(places))
  output = tmp_path / 'scores.csv'
  flags = f'--data={path}', '--on_bad_row=skip', *keep
  main([f'--output={output}', '--workdir=run', *flags])
  said = capsys.readouterr().out
  names = (['id'] if keep else []) + ['probability']
  header, *lines = output.read_text().split('\n')[:-1]
  assert header == ','.join(names)
  assert len(lines) == 12
  for number, line in enumerate(lines):
    *kept, probability = line.split(',')
    if number not in places:
      check(float(probability), want[number])
    else:
      assert probability in ('', '""')
    if keep:
      unread = number in places and places[number] is None
      assert kept[0] in (('', '""') if unread else (str(1000 + number),))
  assert f'12 rows, {len(places)} of them bad and without a prediction' in said
  assert 'skipped' in said


@pytest.mark.parametrize('keep', [(), ('--keep=id',)])
def test_bad_rows_of_parquet_keep_their_place_and_columns(
  model, tmp_path, want, keep
):
  frame = scored.frame_of(scored.rows_of(0), model.intake.schema)
  bad = [0, 17, 18, 399]
  price = frame['price'].scatter(bad, [np.inf] * 4)
  frame.with_columns(price).write_parquet(tmp_path / 'rows.parquet')
  with mock.patch('dlrm_jax.prepare.readers.parquet_reader.FRAME_ROWS', 18):
    found = predict(
      tmp_path / 'scores.parquet',
      f'--data={tmp_path}/rows.parquet',
      '--on_bad_row=skip',
      *keep,
    )
  assert found['probability'].is_null().arg_true().to_list() == bad
  rest = found['probability'].is_not_null()
  check(found['probability'].filter(rest), want[rest.to_numpy()])
  if keep:
    assert found['id'].equals(frame['id'])


def test_a_bad_row_stops_and_leaves_no_file(tmp_path, capsys):
  path, output = tmp_path / 'rows.csv', tmp_path / 'scores.csv'
  path.write_text(bad_lines({5: 'cheap'}))
  predict(output, f'--data={path}', status=1)
  (said,) = capsys.readouterr().err.splitlines()
  assert f'{path}, line 7, column price' in said
  assert "'cheap'" in said
  assert '--on_bad_row=skip' in said
  assert list(tmp_path.iterdir()) == [path]


def test_bad_rows_in_several_files_and_pieces(tmp_path, want, monkeypatch):
  """Numbers of lines begin anew in each."""
  monkeypatch.setattr('dlrm_jax.prepare.readers.lines.PIECE_BYTES', 300)
  for name, start in (('a', 0), ('b', 200)):
    lines = scored.csv_of(scored.rows_of(0)[start : start + 200]).splitlines()
    for bad in (0, 7, 100, 199):
      lines[bad + 1] = 'nonsense'
    (tmp_path / f'{name}.csv').write_text('\n'.join(lines) + '\n')
  found = predict(
    tmp_path / 'scores.parquet',
    f'--data={tmp_path}/[ab].csv',
    '--on_bad_row=skip',
    '--keep=id',
  )
  bad = [0, 7, 100, 199, 200, 207, 300, 399]
  assert found['probability'].is_null().arg_true().to_list() == bad
  rest = found['probability'].is_not_null()
  check(found['probability'].filter(rest), want[rest.to_numpy()])
  ids = np.arange(1000, 1400)[rest.to_numpy()]
  assert found['id'].filter(rest).cast(pl.Int64).to_list() == ids.tolist()


def test_quoted_fields(tmp_path, want):
  lines = [line.split(',') for line in
           scored.csv_of(scored.rows_of(0, 20)).splitlines()]  # fmt: skip
  quoted = [[f'"{cell}"' for cell in line] for line in lines]
  for number, line in enumerate(quoted[1:]):
    line[0] = f'"a ""{number}"", b"'
  path = tmp_path / 'rows.csv'
  path.write_text('\n'.join(map(','.join, quoted)) + '\n')
  found = predict(tmp_path / 'scores.csv', f'--data={path}', '--keep=id')
  assert found['id'].to_list() == [f'a "{n}", b' for n in range(20)]
  check(found['probability'], want[:20])


@contextlib.contextmanager
def typed(text):
  """Standard input that has a text."""
  content = text if isinstance(text, bytes) else text.encode()
  with mock.patch('sys.stdin', io.TextIOWrapper(io.BytesIO(content))):
    yield


@pytest.mark.parametrize('size', [64 << 20, 2_000])
def test_standard_input(tmp_path, want, monkeypatch, size):
  monkeypatch.setattr(stream, '_BYTES', size)
  monkeypatch.setattr(stream, '_BLOCK', min(size, 777))
  text = scored.csv_of(scored.rows_of(0))
  for content in (text, text.removesuffix('\n')):
    with typed(content):
      found = predict(tmp_path / 'scores.csv', '--data=-', '--keep=id')
    assert found['id'].to_list() == list(range(1000, 1400))
    check(found['probability'], want)


def test_bad_rows_of_standard_input(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(stream, '_BYTES', 500)
  monkeypatch.setattr(stream, '_BLOCK', 100)
  text = bad_lines({30: 'cheap', 77: None}, 100)
  output = tmp_path / 'scores.csv'
  with typed(text):
    assert predict(output, '--data=-', status=1) is None
  (said,) = capsys.readouterr().err.splitlines()
  assert 'standard input, line 32, column price' in said
  assert not list(tmp_path.iterdir())
  with typed(text):
    found = predict(output, '--data=-', '--on_bad_row=skip', '--keep=id')
  assert found['probability'].is_null().arg_true().to_list() == [30, 77]
  said = capsys.readouterr().out
  assert 'standard input, line 32, column price' in said
  assert 'standard input, line 79' in said


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('', ['standard input', 'empty']),
    ('a,b\n1,2\n', ['standard input', "no column 'price'", "'a', 'b'"]),
    (b'\x89PNG\r\n\x1a\n\0\0', ['standard input']),
    (gzip.compress(b'cut' * 99, mtime=0)[:20], ['standard input']),
  ],
)
def test_standard_input_that_is_no_log(tmp_path, text, words, capsys):
  with typed(text):
    predict(tmp_path / 'scores.csv', '--data=-', status=1)
  (said,) = capsys.readouterr().err.splitlines()
  assert '/tmp' not in said.replace(str(tmp_path), '')
  for word in words:
    assert word in said


def test_a_file_is_replaced_at_the_end_only(log, tmp_path, want):
  for suffix in ('csv', 'parquet'):
    output, seen = tmp_path / f'scores.{suffix}', []
    output.write_text('older')
    real = columns.predictions_frame

    def watched(*arguments, seen=seen, output=output, real=real):
      seen.append(output.read_text())
      return real(*arguments)

    with mock.patch.object(columns, 'predictions_frame', watched):
      found = predict(output, f'--data={log}')
    assert seen == ['older']
    check(found['probability'], want)
    assert {p.name for p in tmp_path.iterdir()} <= {
      'rows.csv', 'scores.csv', 'scores.parquet'
    }  # fmt: skip


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space')])
def test_an_error_half_way_leaves_the_older_file(log, tmp_path, suffix, error):
  output = tmp_path / f'scores.{suffix}'
  output.write_text('older')
  calls = []
  real = columns.predictions_frame

  def failing(*arguments):
    calls.append(1)
    if len(calls) == 2:
      raise error
    return real(*arguments)

  with (
    mock.patch.object(columns, 'predictions_frame', failing),
    mock.patch('dlrm_jax.errors.leave', side_effect=SystemExit(130)),
    contextlib.suppress(SystemExit),
  ):
    data = ['--data', log, log]
    main([f'--output={output}', '--workdir=run', *map(str, data)])
  assert output.read_text() == 'older'
  assert {p.name for p in tmp_path.iterdir()} == {'rows.csv', output.name}


def kill_itself():
  """Makes this process kill itself at its second frame of predictions."""
  import os

  real, calls = columns.predictions_frame, []

  def killing(*arguments):
    calls.append(1)
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

  mock.patch.object(columns, 'predictions_frame', killing).start()


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_a_killed_command_leaves_no_file(plain, log, tmp_path, suffix):
  output = tmp_path / f'scores.{suffix}'
  command = ['-m', 'dlrm_jax.predict', f'--workdir={plain.folder}']
  command += [f'--output={output}', '--data', str(log), str(log)]
  with commands.Command(
    command, environment=commands.devices(1), before=kill_itself
  ) as running:
    assert running.end().status == -signal.SIGKILL
  assert not output.exists()
  assert len(list(tmp_path.iterdir())) > 1
  done = commands.run(command, environment=commands.devices(1))
  assert f'{output}: 800 rows' in done.stdout
  assert {p.name for p in tmp_path.iterdir()} == {'rows.csv', output.name}


def test_rows_are_not_written_over(log, capsys):
  """An input cannot be the output."""
  before = log.read_text()
  predict(log, f'--data={log}', status=1)
  (said,) = capsys.readouterr().err.splitlines()
  assert f'--output={log}' in said
  assert log.read_text() == before


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--output={place}/x'], ['--output={place}/x', '.csv or .parquet']),
    (['--output={place}/no/x.csv'], ['{place}/no is no folder', 'make it']),
    (['--output={place}/folder.csv'], ['{place}/folder.csv is a folder']),
    (['--data={place}/no.csv'], ['{place}/no.csv: no such file']),
    (['--data={place}/no*.csv'], ['{place}/no*.csv', 'nothing matches']),
    (['--data={place}/empty'], ['{place}/empty', 'without files']),
    (['--data={place}/empty.csv'], ['empty.csv: empty']),
    (['--data={place}/header.csv'], ['header.csv: no rows to score']),
    (['--data={place}/picture.csv'], ['picture.csv', 'PNG']),
    (['--data={place}/zip.csv'], ['zip.csv', 'zip']),
    (['--data={place}/array.npy'], ['array.npy']),
    (['--data={place}/cut.parquet'], ['cut.parquet', 'Parquet']),
    (['--data={place}/fewer.csv'], ["no column 'word'", 'wrod']),
    (['--data={place}/semicolons.csv'], ['semicolons.csv', 'one column']),
    (['--keep=no'], ["no column 'no'", '--keep', "'id'"]),
    (['--keep=id,id'], ['--keep=id,id', 'two columns']),
    (['--keep=probability'], ['probability', 'two columns']),
    (['--split=test'], ["split 'test'", 'raw file']),
    (['--data=-'], ['standard input', 'alone']),
    (['--data={set}', '--split=no'], ["no split 'no'", 'validation']),
    (['--on_bad_row=drop'], ['--on_bad_row', 'drop', 'skip']),
  ],
  ids=str,
)
def test_mistakes_end_in_one_line(plain, log, tmp_path, capsys, flags, words):
  place = tmp_path / 'place'
  place.mkdir()
  for name in ('folder.csv', 'empty'):
    (place / name).mkdir()
  text = log.read_text()
  (place / 'empty.csv').write_text('')
  (place / 'header.csv').write_text(text.split('\n')[0] + '\n')
  (place / 'picture.csv').write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(99))
  shutil.make_archive(place / 'packed', 'zip', plain.folder)
  (place / 'packed.zip').rename(place / 'zip.csv')
  np.save(place / 'array.npy', np.zeros(3))
  pl.DataFrame({'a': range(999)}).write_parquet(place / 'cut.parquet')
  whole = (place / 'cut.parquet').read_bytes()
  (place / 'cut.parquet').write_bytes(whole[:-99])
  (place / 'fewer.csv').write_text(text.replace('word', 'wrod'))
  (place / 'semicolons.csv').write_text(text.replace(',', ';'))
  given = ['--workdir=run', f'--output={place}/x.csv', f'--data={log}']
  named = [flag.format(place=place, set=plain.data) for flag in flags]
  if named[0].startswith('--data') and named[0] != '--data=-':
    given.pop()
  before = {p.name for p in place.iterdir()}
  assert main([*given, *named]) == 1
  (said,) = capsys.readouterr().err.splitlines()
  assert said.startswith('error: ')
  for word in words:
    assert word.format(place=place) in said, said
  assert {p.name for p in place.iterdir()} == before


@pytest.mark.parametrize(
  ('column', 'kind'),
  [
    ('tags', 'List(String)'),
    ('bytes', 'Binary'),
    ('wait', "Duration(time_unit='us')"),
  ],
)
def test_types_that_csv_has_no_words_for_are_for_parquet(
  model, tmp_path, capsys, column, kind
):
  frame = scored.frame_of(scored.rows_of(0), model.intake.schema)
  frame = frame.with_columns(
    pl.lit(b'x').alias('bytes'), pl.duration(seconds=1).alias('wait')
  )
  frame.write_parquet(tmp_path / 'rows.parquet')
  flags = f'--data={tmp_path}/rows.parquet', f'--keep=id,{column}'
  predict(tmp_path / 'x.csv', *flags, status=1)
  (said,) = capsys.readouterr().err.splitlines()
  assert f"column '{column}' is {kind}" in said
  assert '.parquet' in said
  assert {path.name for path in tmp_path.iterdir()} == {'rows.parquet'}
  found = predict(tmp_path / 'x.parquet', *flags)
  assert found[column].equals(frame[column])


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_folders_may_have_any_name(log, tmp_path, want, suffix):
  (tmp_path / 'o[1]*?').mkdir()
  found = predict(tmp_path / 'o[1]*?' / f'x.{suffix}', f'--data={log}')
  check(found['probability'], want)


def test_a_column_to_keep_has_one_type(model, log, tmp_path, want, capsys):
  """In Parquet; the types of files may differ."""
  frame = scored.frame_of(scored.rows_of(0), model.intake.schema)
  frame.write_parquet(tmp_path / 'rows.parquet')
  flags = '--data', tmp_path / 'rows.parquet', log, '--keep=id'
  predict(tmp_path / 'x.parquet', *flags, status=1)
  (said,) = capsys.readouterr().err.splitlines()
  assert "column 'id' is Int64 in the first rows and String in later" in said
  found = predict(tmp_path / 'x.csv', *flags)
  assert found['id'].to_list() == 2 * list(range(1000, 1400))
  check(found['probability'], np.concatenate([want, want]))


def test_a_set_has_no_columns_to_keep(plain, tmp_path, capsys):
  flags = f'--data={plain.data}', '--keep=id'
  predict(tmp_path / 'x.csv', *flags, status=1)
  (said,) = capsys.readouterr().err.splitlines()
  assert '--keep=id' in said
  assert 'prepared set' in said
