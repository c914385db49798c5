"""The prepare command: what it makes, says and refuses."""

import gzip
import os
import signal
from pathlib import Path

import pytest

from dlrm_jax.data.prepared import open_prepared
from dlrm_jax.prepare.__main__ import main
from tests.commands import Command, stop_before_the_end, wait_until

ROOT = Path(__file__).resolve().parents[2]
ROW = '\t'.join(['1', *['5'] * 13, *['0a1b2c3d'] * 26])
GOOD = f'{ROW}\n'.encode() * 50


def swap(number, value):
  fields = ROW.split('\t')
  fields[number] = value
  return '\t'.join(fields).encode()


@pytest.fixture
def raw(tmp_path):
  path = tmp_path / 'raw.txt'
  path.write_bytes(GOOD)
  return path


def run(tmp_path, *flags):
  return main(['criteo', f'--output={tmp_path / "set"}', *map(str, flags)])


def refused(capsys, status):
  """The one line that a mistake ends in."""
  out, err = capsys.readouterr()
  assert status != 0
  lines = err.splitlines()
  assert len(lines) == 1
  assert lines[0].startswith('error: ')
  assert 'Traceback' not in out + err
  return lines[0]


BAD = {
  'too few columns': (ROW.rsplit('\t', 1)[0].encode(), 'number of columns'),
  'too many columns': (ROW.encode() + b'\t', 'number of columns'),
  'empty line': (b'', 'number of columns'),
  'label': (swap(0, '2'), 'bad label'),
  'no label': (swap(0, ''), 'bad label'),
  'float': (swap(2, '5.0'), 'non-integer'),
  'plus': (swap(2, '+5'), 'non-integer'),
  'quotes': (swap(2, '"5"'), 'non-integer'),
  'int64': (swap(2, '3000000000'), 'integer out of range'),
  'not hex': (swap(20, 'wxyz'), 'non-hex category'),
  'long hex': (swap(20, '0' * 9), 'non-hex category'),
  'NUL': (swap(20, 'ab\0'), 'NUL byte'),
  'not UTF-8': (ROW.encode()[:-1] + b'\xff', 'invalid UTF-8'),
}


@pytest.mark.parametrize('kind', BAD)
def test_a_bad_row_stops_in_one_line_or_is_skipped(tmp_path, raw, capsys, kind):
  bad, why = BAD[kind]
  raw.write_bytes(GOOD + bad + b'\n' + GOOD)
  line = refused(capsys, run(tmp_path, '--input', raw))
  assert f'{raw}, line 51' in line
  assert why in line
  assert '--on_bad_row=skip' in line
  assert os.listdir(tmp_path) == ['raw.txt']
  flags = ('--on_bad_row=skip', '--splits=train=1')
  assert run(tmp_path, '--input', raw, *flags) == 0
  assert 'skipped 1 x' in capsys.readouterr().out
  assert open_prepared(tmp_path / 'set').splits == {'train': 100}


def test_a_truncated_gzip_stops_in_one_line(tmp_path, capsys):
  raw = tmp_path / 'raw.gz'
  raw.write_bytes(gzip.compress(GOOD)[:-10])
  line = refused(capsys, run(tmp_path, '--input', raw))
  assert 'truncated' in line


@pytest.mark.parametrize(
  ('flags', 'why'),
  [
    ([], 'required: --input'),
    (['--input=absent.txt'], 'absent.txt: no such file'),
    (['--input=.'], 'has folders within'),
    (['--input={raw}', '--min_count=0'], '--min_count=0: expected 1'),
    (['--input={raw}', '--min_count=two'], 'expected a whole number'),
    (['--input={raw}', '--hash_rows=0'], '--hash_rows=0: expected 1'),
    (['--input={raw}', '--hash_rows=5', '--min_count=1'], 'exclude each other'),
    (
      ['--input={raw}', '--hash_rows=5', '--mode=frequency'],
      '--mode=frequency has no effect beside --hash_rows=5',
    ),
    (
      ['--input={raw}', '--keep_order', '--seed=0'],
      '--seed=0 has no effect beside --keep_order',
    ),
    (['--input={raw}', '--mode=fb', '--max_ind_range=0'], 'expected 1 or more'),
    (['--input={raw}', '--splits='], '--splits=: '),
    (['--input={raw}', '--vocabulary='], 'not a prepared set'),
    (['--input={raw}', '--memory='], "--memory is ''"),
    (['--input={raw}', '--splits=train=0.5'], 'sum to 0.5'),
    (['--input={raw}', '--splits=a=1'], 'no split is named train'),
    (
      ['--input={raw}', '--test_input={raw}', '--splits=train=1'],
      'leave --splits out',
    ),
    (['--input={raw}', '--on_bad_row=ignore'], 'invalid choice'),
    (['--input={raw}', '--inputs=x'], 'unrecognized arguments'),
    (['--input={raw}', '--output={raw}'], 'exists already'),
    (['--input={raw}', '--output={raw}/set'], 'cannot be made here'),
    (['--input={raw}', '--output=/proc/set'], 'cannot be made here'),
    (['--input={raw}', '--output='], 'expected a folder'),
    (['--input={raw}', '--output=/'], 'expected a folder'),
    (['--input={raw}', '--output=/proc'], 'a file system is mounted here'),
    (['--input=no.txt', '--output={raw}'], 'exists already'),
    (['--input={raw}', '--output={raw}', '--overwrite'], 'not a prepared set'),
  ],
)
def test_wrong_usage_ends_in_one_line(tmp_path, raw, capsys, flags, why):
  flags = [flag.format(raw=raw) for flag in flags]
  assert why in refused(capsys, run(tmp_path, *flags))
  assert os.listdir(tmp_path) == ['raw.txt']


@pytest.mark.parametrize(
  'flag',
  [
    *('--min_count=0', '--mode=fb', '--max_ind_range=0', '--hash_rows=0'),
    *('--multi_hot=', '--num_embeddings=', '--seed=0', '--keep_order'),
    '--splits=test=1 --seed=3',
  ],
)
def test_options_without_effect_beside_a_vocabulary_are_refused(
  tmp_path, raw, capsys, flag
):
  flags = ('--input', raw, f'--vocabulary={tmp_path / "any"}', *flag.split())
  line = refused(capsys, run(tmp_path, *flags))
  assert f'{flag.split()[-1]} has no effect beside --vocabulary=' in line


def test_new_days_are_split_and_have_the_ids_of_a_set(tmp_path, capsys):
  days = []
  for day, letter in enumerate('ab'):
    lines = [swap(20, f'{letter}{number % 7}') for number in range(70)]
    days.append(tmp_path / f'day_{day}')
    days[-1].write_bytes(b'\n'.join([*lines, b'']))
  known = tmp_path / 'known'
  flags = ('criteo', f'--input={days[0]}', f'--output={known}')
  assert main([*flags, '--min_count=2']) == 0
  with_ids = (f'--vocabulary={known}', '--input', days[1])
  cut = ('--splits=train=0.5,validation=0.25,test=0.25', '--seed=3')
  assert run(tmp_path, *with_ids, *cut) == 0
  assert 'train on it:' in capsys.readouterr().out
  old, new = open_prepared(known), open_prepared(tmp_path / 'set')
  assert new.splits == {'train': 35, 'validation': 18, 'test': 17}
  assert new.details['ids'] == old.details['ids']
  assert (new.schema, new.scale) == (old.schema, old.scale)
  ids = new.source('train')[0].ids
  # C7 of the second day is new, and other values are known.
  assert not ids[:, 6].any()
  assert (ids[:, 5] == old.source('train')[0].ids[0, 5]).all()

  files = ('--test_input', days[0], '--overwrite')
  assert run(tmp_path, *with_ids, *files) == 0
  assert open_prepared(tmp_path / 'set').splits == {'train': 70, 'test': 70}

  halves = ('--splits=validation=0.5,test=0.5', '--overwrite')
  assert run(tmp_path, *with_ids, *halves) == 0
  again = open_prepared(tmp_path / 'set')
  assert again.splits == {'validation': 35, 'test': 35}
  assert 'train on it' not in capsys.readouterr().out.splitlines()[-1]


def test_an_unknown_kind_lists_those_there_are(capsys):
  line = refused(capsys, main(['avazu']))
  assert 'criteo' in line
  assert 'movielens' in line


def test_an_empty_file_is_refused(tmp_path, raw, capsys):
  raw.write_bytes(b'')
  assert 'empty' in refused(capsys, run(tmp_path, '--input', raw))


def test_a_file_without_good_rows_is_refused(tmp_path, raw, capsys):
  raw.write_bytes(b'hello\n')
  status = run(tmp_path, '--input', raw, '--on_bad_row=skip')
  line = refused(capsys, status)
  assert f'{raw}: the input has no good rows; skipped 1 x' in line


@pytest.mark.parametrize(
  'flags',
  [
    ['--input={0}', '{0}'],
    ['--input', '{0}', '{0}'],
    ['--input={0}', '--input={0}'],
  ],
)
def test_inputs_may_be_given_in_every_way(tmp_path, raw, flags):
  assert run(tmp_path, *(flag.format(raw) for flag in flags)) == 0
  assert sum(open_prepared(tmp_path / 'set').splits.values()) == 100


def test_it_says_what_it_makes_and_how_to_train_on_it(tmp_path, raw, capsys):
  assert run(tmp_path, '--input', raw, '--min_count=2') == 0
  out = capsys.readouterr().out
  for text in (
    str(raw),
    'in 2 or more training rows',
    'train=6/7',
    '50 rows in',
    'click rate 1.0000',
    'C26 2',
    f'--config.data.dir={tmp_path / "set"}',
  ):
    assert text in out


def test_it_prints_the_output_as_it_was_given(
  tmp_path, raw, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert main(['criteo', f'--input={raw}', '--output=./sets/one']) == 0
  assert '--config.data.dir=./sets/one ' in capsys.readouterr().out


def test_help_lists_the_kinds_with_their_options(capsys):
  with pytest.raises(SystemExit) as stop:
    main(['--help'])
  assert stop.value.code == 0
  out = capsys.readouterr().out
  for text in ('criteo', 'movielens', '--min_count', '--hash_rows', '--name'):
    assert text in out


def start(raw, output):
  """A command that stops before its end, to be signalled or killed."""
  return Command(
    [
      '-m',
      'dlrm_jax.prepare',
      'criteo',
      f'--input={raw}',
      f'--output={output}',
    ],
    before=stop_before_the_end,
  )


@pytest.mark.parametrize(
  'moment',
  ['set.unfinished', 'set.unfinished/spool/*.json', 'set.unfinished/set/*'],
)
def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path, raw, moment):
  raw.write_bytes(GOOD * 2000)
  with start(raw, tmp_path / 'set') as process:
    wait_until(lambda: list(tmp_path.glob(moment)), process)
    process.kill()
  left = set(os.listdir(tmp_path)) - {'raw.txt'}
  assert left == {'set.unfinished'}
  assert run(tmp_path, '--input', raw) == 0
  assert sorted(os.listdir(tmp_path)) == ['raw.txt', 'set']


@pytest.mark.parametrize(
  ('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_after_a_signal_the_same_command_goes_on(tmp_path, raw, number, status):
  raw.write_bytes(GOOD * 4000)
  spool = 'set.unfinished/spool/*.json'
  with start(raw, tmp_path / 'set') as process:
    wait_until(lambda: list(tmp_path.glob(spool)), process)
    # Where it has stopped by now it hears the signal only when it goes on.
    for sent in (signal.SIGSTOP, number, signal.SIGCONT):
      process.send(sent)
    assert process.end().status == status
  assert sorted(os.listdir(tmp_path)) == ['raw.txt', 'set.unfinished']
  assert run(tmp_path, '--input', raw) == 0
  assert sorted(os.listdir(tmp_path)) == ['raw.txt', 'set']


CONFIG = """from configs import default


def get_config():
  config = default.get_config()
  config.data.raw = {raw}
  return config
"""
SCHEMA = {
  'format': 'csv',
  'label': 'click',
  'dense': {'price': 'log1p'},
  'sparse': ['user'],
  'bags': {'tags': {'separator': '|'}},
  'time': 'when',
}


def csv(tmp_path, schema, rows, *flags):
  config = tmp_path / 'mine.py'
  config.write_text(CONFIG.format(raw=repr(schema)))
  raw = tmp_path / 'log.csv'
  raw.write_text('\n'.join(['click,price,user,tags,when', *rows]) + '\n')
  return main(
    [
      *('raw', f'--config={config}', f'--input={raw}', '--splits=train=1'),
      f'--output={tmp_path / "set"}',
      *flags,
    ]
  )


def test_a_log_is_what_its_config_says(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  rows = ['1,3,ann,a|b,10', '0,0,bob,,11', '0,,ann,b,12']
  assert csv(tmp_path, SCHEMA, rows) == 0
  assert '3 rows in' in capsys.readouterr().out
  prepared = open_prepared(tmp_path / 'set')
  assert [(c.rows, c.hotness) for c in prepared.schema.sparse] == [
    (3, 1),
    (3, 2),
  ]
  block = prepared.source('train')[0]
  assert sorted(map(tuple, block.ids.tolist())) == [
    (1, 1, -1),
    (1, 2, 1),
    (2, -1, -1),
  ]
  assert prepared.timelines['train'] == [[3, 1, 10, 12]]


def test_min_count_counts_rows_not_ids_in_bags(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  rows = ['1,3,ann,a|a,10', '0,0,bob,b,11', '0,,ann,b,12']
  assert csv(tmp_path, SCHEMA, rows, '--min_count=2') == 0
  prepared = open_prepared(tmp_path / 'set')
  assert [(c.name, c.rows) for c in prepared.schema.sparse] == [
    ('user', 2),
    ('tags', 2),
  ]
  assert prepared.counts('tags').tolist() == [2, 2]


def test_min_count_is_refused_where_no_feature_is_counted(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(ROOT)
  hashed = {'ids': 'hashed', 'rows': 5}
  bag = {'tags': hashed | {'separator': '|'}}
  schema = SCHEMA | {'sparse': {'user': hashed}, 'bags': bag}
  status = csv(tmp_path, schema, ['1,3,ann,a,10'], '--min_count=2')
  line = refused(capsys, status)
  assert '--min_count=2 has no effect beside --config=' in line


def test_rows_that_go_back_in_time_are_refused(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  rows = ['1,3,ann,a|b,10', '0,0,bob,,9']
  line = refused(capsys, csv(tmp_path, SCHEMA, rows))
  assert 'not in the order of their time' in line


def test_a_schema_that_is_wrong_is_one_line(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  schema = SCHEMA | {'sparse': ['usr']}
  line = refused(capsys, csv(tmp_path, schema, ['1,3,ann,a|b,10']))
  assert 'usr' in line
  assert 'user' in line
