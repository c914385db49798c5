"""Benchmarks: what they say, not how fast anything is."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import (
  __main__,
  ceilings,
  contest,
  family,
  inference,
  latency,
  lookup,
  machine,
  machines,
  memory,
  models,
  our_run,
  paper,
  peers,
  picture,
  step,
  targets,
)
from dlrm_jax import files
from tests.every_config import NAMES, load

BOTH = {peers.OURS: 6.0, peers.DLRM: 2.0, peers.TORCHREC: 3.0}
NOBODY = peers.Peers('', '', False)


def arguments(*given):
  parser = argparse.ArgumentParser()
  peers.add_flags(parser)
  return parser.parse_args(given)


def ratios(row):
  return {c.beside: round(c.ratio, 3) for c in targets.comparisons(row)}


def missed(row):
  return [c.beside for c in targets.comparisons(row) if c.missed]


def test_a_ratio_above_one_means_that_we_are_better():
  assert ratios(peers.row('speed', 'examples/s', BOTH)) == {'torchrec': 2}
  assert ratios(peers.row('time', 's', BOTH)) == {'dlrm': 0.333}
  assert ratios(peers.row('speed', 'examples/s', {peers.OURS: 6.0})) == {}


def test_a_ratio_is_against_the_fastest_peer_and_those_with_targets():
  lookup = {peers.OURS: 3.0, peers.TORCHREC: 6.0, peers.BAGS: 2.4}
  row = peers.row('RM2: lookup', 'ms', lookup)
  assert ratios(row) == {'torchrec': 2, 'EmbeddingBag': 0.8}
  assert missed(row) == ['EmbeddingBag']
  assert targets.aimed(row) == '1.7 torchrec, 1.05 EmbeddingBag'
  scores = {peers.OURS: 2.0, peers.DLRM: 3.0, peers.TORCHREC: 4.0}
  row = peers.row('inference, batch 64, p50', 'ms', scores)
  assert ratios(row) == {'torchrec': 2, 'dlrm': 1.5}
  assert missed(row) == []


def test_rows_of_few_bits_stand_beside_ours_in_float32_which_is_no_peer():
  values = {peers.OURS: 2.0, peers.FLOAT32: 2.2, peers.TORCHREC: 4.0}
  row = peers.row('RM1: lookup, int4', 'ms', values)
  assert ratios(row) == {'torchrec': 2, 'our float32': 1.1}
  assert missed(row) == ['our float32']
  del values[peers.TORCHREC]
  row = peers.row('RM1: lookup, int4', 'ms', values)
  assert ratios(row) == {'our float32': 1.1}


def test_our_own_number_is_at_most_a_time_and_at_least_a_speed():
  for what, unit, good, bad in (
    ('start to first step, cold', 's', 3.9, 4.1),
    ('product of int64, 512 x 512 x 512', 'GOP/s', 10.5, 9.5),
    ('anything', 's', 3.9, 4.1),
  ):
    row = peers.row(what, unit, {peers.OURS: good})
    assert not targets.own_missed(row)
    row[peers.OURS] = bad
    assert targets.own_missed(row) == (what != 'anything')


def test_lookups_in_one_thread_have_a_row_of_their_own():
  values = {
    peers.OURS: 1.0,
    lookup.ONE_THREAD: 2.0,
    peers.FLOAT32: 1.5,
    peers.TORCHREC: 3.0,
  }
  rows = lookup.kind_rows('RM1: lookup, int8', values)
  assert [ratios(row) for row in rows] == [
    {'torchrec': 3, 'our float32': 1.5},
    {'torchrec': 1.5},
  ]


def test_no_file_of_results_has_targets():
  paths = list(Path('docs/benchmarks').glob('*.json'))
  assert paths
  measured = [machines.read(path) for path in paths]
  assert all(
    not {'ratio', 'target', 'at most'} & row.keys()
    for one in measured
    for row in one.rows.values()
  )
  names = machines.order(measured)
  assert 'step, batch 128, float32' not in targets.unmeasured(names)
  assert 'step, batch 128, float32' in targets.unmeasured(names[1:])


def test_the_page_has_what_the_files_of_results_say():
  paths = sorted(Path('docs/benchmarks').glob('*.json'))
  lines = machines.tables([machines.read(path) for path in paths])
  assert '\n'.join(lines).strip() in machines.PAGE.read_text()


def test_missing_peers_are_said_in_one_line_each(capsys, tmp_path):
  bare = tmp_path / 'python'
  bare.write_text('#!/bin/sh\nexit 1\n')
  bare.chmod(0o755)
  assert peers.find(arguments(f'--peer_python={bare}')) == NOBODY
  said = capsys.readouterr().err.splitlines()
  assert said == [f'no peers: {bare} has no torch; give --peer_python=PYTHON']


@pytest.mark.parametrize('flag', ['peer_python', 'dlrm'])
def test_what_a_flag_names_must_be_there(flag, tmp_path):
  absent = tmp_path / 'absent'
  with pytest.raises(SystemExit, match=f'--{flag}={absent}: no '):
    peers.find(arguments(f'--{flag}={absent}'))


def test_a_reference_that_cannot_be_imported_is_no_peer(
  capsys, tmp_path, monkeypatch
):
  (tmp_path / 'dlrm_s_pytorch.py').touch()
  monkeypatch.setattr(peers, '_has', lambda python, what: what == 'torch')
  found = peers.find(arguments(f'--dlrm={tmp_path}'))
  assert found.commands('peer_step') == {}
  said = capsys.readouterr().err.splitlines()
  assert [line.split(':')[0] for line in said] == [
    f'no {peers.DLRM}',
    f'no {peers.TORCHREC}',
  ]


def test_steps_are_compared_kind_by_kind():
  rates = {
    peers.OURS: {'float32': 200.0, 'bfloat16': 300.0, 'rowwise': 180.0},
    peers.DLRM: {'float32': 100.0, 'bfloat16': 50.0},
    peers.TORCHREC: {'float32': 80.0, 'bfloat16': 150.0, 'rowwise': 90.0},
  }
  rows = step.compare(rates, 2048, step.SIZES[2048])
  assert [ratios(row) for row in rows] == [
    {'dlrm': 2.0},
    {'dlrm': 3.0},
    {'torchrec': 2.0},
    {'torchrec': 2.0},
    {},
  ]
  aims = ['2.3', '3.2', '1.5', '', 'at most 1.1 steps with SGD']
  assert [targets.aimed(row) for row in rows] == aims
  assert rows[-1][peers.OURS] == pytest.approx(200 / 180)


@pytest.mark.slow
def test_without_peers_our_own_rows_stand_alone():
  rows = inference.compare(NOBODY, rounds=1, batch=2, calls=3)
  assert len(rows) == 2
  assert all(row[peers.OURS] > 0 and not ratios(row) for row in rows)


@pytest.mark.slow
def test_the_step_is_measured_without_peers():
  size = step.SIZES[2048]._replace(steps=1, ours=(step.ROWWISE,))
  rates = step.measure(NOBODY, rounds=1, batch=8, size=size)
  assert list(rates) == [peers.OURS]
  assert rates[peers.OURS].keys() == {step.ROWWISE}


def test_a_contender_that_fails_ends_the_contest(capfd):
  command = [sys.executable, '-c', 'raise SystemExit(3)']
  with pytest.raises(SystemExit, match='ended with status 3'):
    contest.medians({'broken': command}, 1)


CONTENDER = """
import itertools
from benchmarks.serving import serve
values = itertools.chain({values}, itertools.repeat(1.0))
serve(lambda: {{'ms': next(values)}})
"""


@pytest.mark.parametrize(
  ('values', 'busy'),
  [
    ([1.0, 1.1, 0.9], False),
    ([1.0, 3.0, 1.0], False),  # one more round is enough
    ([1.0, 3.0, 0.2], True),  # and here two are not
  ],
)
def test_rounds_far_from_the_median_are_repeated(values, busy, capfd):
  command = [sys.executable, '-c', CONTENDER.format(values=values)]
  found = contest.medians({'some': command}, 3)
  assert found['some']['ms'] == pytest.approx(1.0)
  said = capfd.readouterr().err
  assert ('of the rounds are over' in said) == busy


def test_a_tail_that_jumps_does_not_make_a_machine_busy(capfd):
  values = '[1.0, 3.0, 0.2]'
  program = CONTENDER.format(values=values).replace('ms', latency.TAIL)
  contest.medians({'some': [sys.executable, '-c', program]}, 3)
  assert 'of the rounds are over' not in capfd.readouterr().err


def test_quantiles_are_of_the_calls():
  calls = []
  found = latency.quantiles(lambda x: calls.append(x), [(1,), (2,)], 3)
  assert calls == [1, 2, 1]
  assert 0 < found['p50'] <= found['p99']


def test_shares_are_of_the_ceiling_with_the_same_products():
  seconds = {'copy': 1.0}
  for dtype, speed in (('float32', 1.0), ('bfloat16', 2.0)):
    seconds[f'product {dtype}'] = 2 * 4096**3 / (speed * 1e11)
    seconds[f'layers {dtype}'] = ceilings.flop() * 2048 / (speed * 5e10)
  rates = {
    'float32': 2e10 / ceilings.flop(),
    'bfloat16': 2e10 / ceilings.flop(),
  }
  rows = ceilings.compare(seconds, rates)
  shares = [row['share'] for row in rows if 'share' in row]
  assert shares == pytest.approx([0.5, 0.2, 0.5, 0.1])


def test_what_a_run_holds_is_its_tables_and_their_state():
  sgd, rowwise = (memory.held(kind, 8) for kind in ('float32', 'rowwise'))
  # One number a row, beside sixteen.
  assert 1.05 < rowwise / sgd < 1.07


def test_the_run_of_a_benchmark_is_one_that_can_be_built(tmp_path):
  command = our_run.command(tmp_path, 3, 8, '--config.train.batch_size=7')
  ended = subprocess.run(
    command, cwd=our_run.ROOT, capture_output=True, text=True, check=False
  )
  assert 'config.train.batch_size 7: expected a multiple' in ended.stderr


def test_a_table_leaves_out_empty_columns(capsys):
  rows = [
    peers.row('speed', 'examples/s', {peers.OURS: 12345.6}),
    peers.row('start to first step, cold', 's', {peers.OURS: 5.2345}),
  ]
  machine.show('some', rows)
  *table, line = capsys.readouterr().out.splitlines()
  assert table == [
    '| what | unit | ours | times better | target |',
    '|---|---|---|---|---|',
    '| speed | examples/s | 12,346 |  |  |',
    '| start to first step, cold | s | 5.23 | † | at most 4 s |',
  ]
  assert json.loads(line)['rows'] == rows


def test_each_benchmark_gets_the_flags_that_it_has():
  found = peers.Peers('python', '/dlrm', True)
  given = argparse.Namespace(
    input='log', rounds=2, frappe='there', fuxictr_python=''
  )
  assert __main__.flags_of('memory', found, given) == []
  assert __main__.flags_of('startup', found, given) == ['--rounds=2']
  assert __main__.flags_of('family', found, given) == [
    '--frappe=there',
    '--rounds=2',
  ]
  given.rounds = None
  assert __main__.flags_of('prepare', found, given) == [
    '--peer_python=python',
    '--dlrm=/dlrm',
    '--input=log',
  ]
  assert __main__.flags_of('step', NOBODY, given) == []


def test_a_benchmark_prints_its_table_and_gives_its_rows(capsys):
  program = 'print("| a |"); print(\'{"rows": [{"a": 1}]}\')'
  found = __main__.run([sys.executable, '-c', program])
  assert found == __main__.Result([{'a': 1}], busy=False)
  assert capsys.readouterr().out == '| a |\n\n'
  assert __main__.run([sys.executable, '-c', 'raise SystemExit(2)']) is None


def test_a_busy_machine_is_said_and_noted(capsys):
  said = f'import sys; print("{contest.BUSY}: much", file=sys.stderr)'
  program = f'{said}; print(\'{{"rows": []}}\')'
  found = __main__.run([sys.executable, '-c', program])
  assert found == __main__.Result([], busy=True)
  assert capsys.readouterr().err == f'{contest.BUSY}: much\n'


def test_machines_stand_side_by_side(tmp_path, capsys):
  about = {
    'processor': 'fast, 2 cores',
    'date': '2026-01-01',
    'commit': 'abc',
    'jax': '0.10.2',
    'peers': {'torch': '2.13'},
    'busy': ['startup'],
  }
  first = [
    peers.row('step, batch 128, float32', 'examples/s', BOTH),
    peers.row('lookup', 'ms', BOTH),
  ]
  what = 'start to first step, kept programs'
  second = [peers.row(what, 's', {peers.OURS: 3.0})]
  for name, rows in {
    'a': {'step': first},
    'b': {'step': first[:1], 'startup': second},
  }.items():
    found = {'benchmarks': rows, 'machine': about}
    files.write_json(tmp_path / f'{name}.json', found)
  page = tmp_path / 'page.md'
  page.write_text(f'before\n{models.BEGIN}\nold\n{models.END}\nafter\n')
  paths = [str(tmp_path / f'{name}.json') for name in 'ab']
  assert machines.main([*paths, f'--page={page}']) == 0
  lines = page.read_text().splitlines()
  assert (lines[0], lines[-1]) == ('before', 'after')
  assert 'old' not in lines
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in lines
    if line.startswith('|')
  ]
  step = '6 (2.00† torchrec)'
  assert cells[0] == ['what', 'target', '`a`', '`b`']
  assert cells[2:] == [
    ['step, batch 128, float32, examples/s', '2.4', step, step],
    ['lookup, ms', '', '6 (0.33 dlrm)', ''],
    [f'{what}, s', 'at most 2.3 s', '', '3† ~'],
  ]
  assert '**No machine was idle for:** startup.' in lines
  page.write_text('{}')
  capsys.readouterr()
  assert machines.main([str(page)]) == 1
  assert f'{page}: not what `make bench` writes' in capsys.readouterr().err


def test_the_picture_is_drawn_from_the_rows_with_ratios(tmp_path):
  rows = [
    peers.row('speed', 'examples/s', BOTH),
    peers.row('inference, batch 64, p50', 'ms', BOTH),
    peers.row('start', 's', {peers.OURS: 3.0}),
  ]
  about = {'processor': 'some', 'date': '2026-01-01', 'commit': 'abc'}
  found = {'benchmarks': {'step': rows}, 'machine': about}
  paths = [tmp_path / 'a.json', tmp_path / 'b.json', tmp_path / 'speed.svg']
  files.write_json(paths[0], found)
  busy = {
    'benchmarks': {'step': rows[:1]},
    'machine': about | {'busy': ['step']},
  }
  files.write_json(paths[1], busy)
  assert picture.main([*map(str, paths)]) == 0
  drawn = re.findall('<!-- (.*) -->', paths[2].read_text())
  assert {'a', 'b', 'speed', 'inference, batch 64, p50'} <= set(drawn)
  assert 'start' not in drawn
  bars = '2 torchrec', '0.5 torchrec', '0.333 dlrm', '2 torchrec ~'
  assert set(bars) <= set(drawn)


def test_a_picture_of_no_ratios_is_refused(tmp_path, capsys):
  rows = [peers.row('start', 's', {peers.OURS: 3.0})]
  found = {'benchmarks': {'startup': rows}, 'machine': {}}
  files.write_json(tmp_path / 'a.json', found)
  names = [str(tmp_path / name) for name in ('a.json', 'speed.svg')]
  assert picture.main(names) == 1
  assert 'no ratios' in capsys.readouterr().err


def sweep_json(config, settings, **metrics):
  return {
    'config': config,
    'seeds': [0, 1],
    'points': [
      {
        'settings': settings,
        'parameters': 1000,
        'epoch_seconds': 1.5,
        'metrics': {
          k: {'mean': v, 'deviation': None} for k, v in metrics.items()
        },
        'runs': [{'seed': 0}],
      }
    ],
  }


def test_results_of_models_stand_beside_those_of_others(tmp_path):
  paths = [tmp_path / name for name in ('fm.json', 'own.json')]
  fm = sweep_json(
    'configs/frappe.py:fm', {'tables.l2': 0.1}, auc=0.9, log_loss=0.2
  )
  files.write_json(paths[0], fm)
  files.write_json(paths[1], sweep_json('own.py', {}, auc=0.5))
  page = tmp_path / 'models.md'
  page.write_text('A\n<!-- results -->\nold\n<!-- end of results -->\nB\n')
  assert models.main([*map(str, paths), f'--page={page}']) == 0
  text = page.read_text()
  rows = [' '.join(line.split()) for line in text.splitlines()]
  assert (
    '| `fm`, l2 0.1 | 1 of 2 | 0.90000 | 0.97022 | 0.20000 | 0.1956 | 1,000 '
    '| 1.50 |'
  ) in rows
  assert '| `own` | 1 of 2 | 0.50000 | 1,000 | 1.50 |' in rows
  assert text.startswith('A\n')
  assert text.endswith('\nB\n')
  assert 'old' not in text
  assert models.main([*map(str, paths), f'--page={page}']) == 0
  assert page.read_text() == text


def test_a_page_without_a_place_for_results_is_refused(tmp_path, capsys):
  page, path = tmp_path / 'models.md', tmp_path / 'a.json'
  page.write_text('no lines')
  files.write_json(path, sweep_json('own.py', {}, auc=0.5))
  assert models.main([str(path), f'--page={page}']) == 1
  assert 'expected the lines <!-- results -->' in capsys.readouterr().err
  path.write_text('[]')
  assert models.main([str(path), f'--page={page}']) == 1
  assert 'a.json: no file of a sweep' in capsys.readouterr().err


def test_an_epoch_is_compared_with_that_of_the_peer_that_is_there():
  ours = {'epoch': 2.0, 'auc': 0.9}
  found = {peers.OURS: ours, peers.FUXICTR: {'epoch': 7.0, 'auc': 0.9}}
  (row,) = family.compare('dlrm', found)
  assert ratios(row) == {'FuxiCTR': 3.5}
  assert missed(row) == ['FuxiCTR']
  (row,) = family.compare('dlrm', {peers.OURS: ours})
  assert (row[peers.OURS], ratios(row)) == (2, {})


def test_the_table_of_least_times_has_every_config():
  of_steps = {step_of(name): name for name in paper.CONFIGS}
  assert len(of_steps) == len(paper.CONFIGS)
  # Their sizes are those of the reader's own data.
  missing = {name for name in NAMES if step_of(name) not in of_steps}
  assert missing == {'avazu', 'movielens'}
  page = paper.PAGE.read_text()
  assert all(page.count(f'| `{name}` ') == 2 for name in paper.CONFIGS)


def step_of(name):
  """What a config says of its step, so not how long it trains."""
  config = load(name)
  for field in set(config.train) - {'batch_size', 'micro_batch', 'loss'}:
    del config.train[field]
  del config.data.synthetic['validation'], config.data.synthetic['test']
  for optimizer in (config.optimizer, config.table_optimizer):
    optimizer.decay_start = optimizer.decay_steps = 0
  return config.to_json()
