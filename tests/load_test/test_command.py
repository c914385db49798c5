"""The command that loads a server, against a server of the test's own."""

import asyncio
import importlib.util
import json
import re
import subprocess
import sys

import aiohttp.web
import polars as pl
import pytest

pytest.importorskip('tritonclient')

from dlrm_jax.load_test.__main__ import main
from dlrm_jax.load_test.flags import parser_of, wanted_of
from dlrm_jax.load_test.wire import HttpWire
from tests import commands
from tests.load_test.peer import MICROSECONDS, Peer

PROTOCOLS = pytest.mark.parametrize('protocol', ['grpc', 'http'])
SHORT = '--seconds=0.2'


@pytest.fixture
def peer():
  with Peer() as started:
    yield started


def load(peer, protocol, *flags):
  """Status of the command."""
  return main([f'--url={peer.urls[protocol]}', '--model=ctr', SHORT, *flags])


@PROTOCOLS
def test_closed_loops_have_the_columns_of_perf_analyzer(
  protocol, peer, capsys, tmp_path
):
  numbers = tmp_path / 'n.json'
  flags = '--concurrency=1,3', '--batch=5', f'--json={numbers}'
  assert load(peer, protocol, *flags) == 0
  assert set(peer.mood.sizes) == {5}
  out = capsys.readouterr().out
  assert '| concurrency 1 |' in out
  assert '| concurrency 3 |' in out
  loads = json.loads(numbers.read_text())['loads']
  for found in loads:
    assert found['requests'] > 0
    assert found['rows'] == 5 * found['requests']
    assert found['refused'] == 0
    assert found['failed'] == found['wrong'] == {}
    times = found['times']
    for stage, expected in MICROSECONDS.items():
      name = stage.replace('_', ' ')
      assert times[f'server {name}'] == pytest.approx(expected / 1e6)
    assert times['server compute output'] is None
    assert times['client send'] > 0
    assert times['client recv'] > 0
    assert times['p50'] <= times['p90'] <= times['p95'] <= times['p99']
  # All but what warmed it up was counted.
  counted = sum(found['requests'] for found in loads)
  assert 0 < peer.mood.answered - counted < peer.mood.answered


@PROTOCOLS
def test_an_open_loop_sends_as_many_requests_as_are_due(
  protocol, peer, tmp_path
):
  numbers = tmp_path / 'n.json'
  assert load(peer, protocol, '--rate=100,200', f'--json={numbers}') == 0
  loads = json.loads(numbers.read_text())['loads']
  assert [(x['load'], x['requests']) for x in loads] == [
    ('rate 100', 20),
    ('rate 200', 40),
  ]


@PROTOCOLS
def test_a_server_without_statistics_has_empty_columns(
  protocol, peer, tmp_path
):
  peer.mood.counts = False
  numbers = tmp_path / 'n.json'
  assert load(peer, protocol, f'--json={numbers}') == 0
  (found,) = json.loads(numbers.read_text())['loads']
  assert found['times']['server queue'] is None
  assert found['times']['network+server send/recv'] > 0


@PROTOCOLS
def test_refusals_are_counted_apart_and_are_no_failure(
  protocol, peer, tmp_path
):
  peer.mood.refuse = set(range(1, 100_000, 2))
  numbers = tmp_path / 'n.json'
  assert load(peer, protocol, '--rate=100', f'--json={numbers}') == 0
  (found,) = json.loads(numbers.read_text())['loads']
  assert found['refused'] + found['requests'] == 20
  assert found['refused'] == pytest.approx(10, abs=1)
  assert found['failed'] == {}


@PROTOCOLS
def test_refused_requests_wait_as_the_server_says_if_asked_to(
  protocol, peer, tmp_path
):
  mood, statistics = peer.mood, peer.mood.statistics
  mood.wait = '0.3'

  def refusing():  # what comes next; statistics are asked for before a load
    mood.refuse = mood.refuse or {len(mood.times) + n for n in (1, 2)}
    return statistics()

  mood.statistics = refusing
  numbers = tmp_path / 'n.json'
  assert load(peer, protocol, '--rate=20', '--retry', f'--json={numbers}') == 0
  (found,) = json.loads(numbers.read_text())['loads']
  assert (found['requests'], found['refused']) == (4, 2)
  assert found['times']['p95'] >= 0.3


@PROTOCOLS
@pytest.mark.parametrize(
  ('wrong', 'words'),
  [
    ('nan', 'output logit has a number that is not finite'),
    ('shape', r'output logit has the shape \[2\]; expected \[2, 1\]'),
    ('missing', 'there is no output probability'),
  ],
)
def test_wrong_answers_from_the_start_end_the_test(
  wrong, words, protocol, peer, capsys
):
  peer.mood.wrong = wrong
  assert load(peer, protocol, '--batch=2') == 1
  said = capsys.readouterr().err
  assert re.search(words, said)
  assert len(said.splitlines()) == 1


@PROTOCOLS
def test_answers_that_change_are_wrong(protocol, peer, capsys):
  peer.mood.wrong = 'changing'
  assert load(peer, protocol, '--concurrency=2') == 1
  assert 'is another than before for the same rows' in capsys.readouterr().out


@PROTOCOLS
def test_a_server_that_fails_is_told_with_its_words(protocol, peer, capsys):
  peer.mood.fail = True
  assert load(peer, protocol) == 1
  said = capsys.readouterr().err
  assert 'answers no request' in said
  assert 'broken' in said


@PROTOCOLS
def test_requests_that_fail_later_make_the_status_1(protocol, peer, capsys):
  outputs = peer.mood.outputs

  def failing(tensors):
    peer.mood.fail = len(peer.mood.times) % 3 == 2
    return outputs(tensors)

  peer.mood.outputs = failing
  assert load(peer, protocol, '--rate=100') == 1
  assert 'failed: ' in (out := capsys.readouterr().out)
  assert 'broken' in out


def test_single_stream_tells_p90(peer, capsys):
  assert load(peer, 'grpc', '--scenario=single_stream') == 0
  assert re.search(r'single stream: p90 \d+\.\d+ ms', capsys.readouterr().out)


def test_offline_tells_rows_a_second(peer, capsys):
  flags = '--scenario=offline', '--batch=64', '--concurrency=2'
  assert load(peer, 'http', *flags) == 0
  assert re.search(r'offline: [\d,]+ rows/s', capsys.readouterr().out)
  assert set(peer.mood.sizes) == {64}


def test_the_server_scenario_has_the_sizes_of_mlperf_and_looks_for_a_rate(
  peer, capsys, tmp_path
):
  numbers = tmp_path / 'n.json'
  flags = '--scenario=server', '--sla_ms=1e-6', f'--json={numbers}'
  assert load(peer, 'grpc', *flags) == 0
  assert set(peer.mood.sizes) <= {100, 200, 300, 400, 500, 600, 700}
  assert 'server: no rate keeps p99 within 1e-06 ms' in capsys.readouterr().out
  found = json.loads(numbers.read_text())
  assert found['kept_rate'] == 0
  rates = [float(x['load'].split()[1]) for x in found['loads'][1:]]
  assert rates == sorted(rates, reverse=True)


def test_the_server_scenario_judges_a_rate(peer, capsys):
  flags = '--scenario=server', '--rate=500', '--sla_ms=1e-6', '--batch=1'
  assert load(peer, 'grpc', *flags) == 0
  assert 'missed at 500 requests/s' in capsys.readouterr().out


def test_rows_of_a_file_are_sent(peer, tmp_path):
  path = tmp_path / 'rows.parquet'
  frame = {'x': [0.5], 'number': [3], 'word': ['w'], 'bag': [['a', 'b']]}
  pl.DataFrame(frame).write_parquet(path)
  seen, outputs = [], peer.mood.outputs

  def noting(tensors):
    seen.append({name: x.tolist() for name, x in tensors.items()})
    return outputs(tensors)

  peer.mood.outputs = noting
  assert load(peer, 'grpc', f'--data={path}') == 0
  assert seen[0] == {
    'x': [[0.5]],
    'number': [[3]],
    'word': [[b'w']],
    'bag': [[b'a', b'b']],
  }
  assert all(x == seen[0] for x in seen)


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--rate=0'], ['--rate=0', 'above 0']),
    (['--rate=many'], ['--rate=many', 'numbers']),
    (['--concurrency=1.5'], ['--concurrency=1.5', 'whole']),
    (['--concurrency=1', '--rate=1'], ['--concurrency', '--rate', 'one']),
    (['--concurrency=99999'], ['99999', '10,000']),
    (['--batch=0'], ['--batch=0', '1 ...']),
    (['--batch=2', '--sizes=normal'], ['--batch', '--sizes']),
    (['--sizes=odd'], ['--sizes=odd', 'mlperf']),
    (['--sla_ms=3'], ['--sla_ms=3', 'no use']),
    (['--scenario=single_stream', '--rate=3'], ['--rate=3', 'single_stream']),
    (['--scenario=server', '--rate=3,4'], ['--rate=3,4', 'has one']),
    (['--seconds=0'], ['--seconds=0', 'above 0']),
    (['--scenario=server'], ['--seconds=0.2', '60 ms', 'at least 0.6']),
    (['--seed=-1'], ['--seed=-1', '0 or more']),
    (['--batch=2000'], ['2,000 rows', '1,024', 'max_batch_size']),
    (['--model=no'], ['no model no']),
    (['--url=ftp://a:1'], ['--url=ftp://a:1', 'grpc://localhost:8001']),
    (['--url=grpc://a'], ['--url=grpc://a', 'grpc://localhost:8001']),
    (['--url=http://localhost:x'], ['--url=http://localhost:x']),
    (['--token_file=no'], ['--token_file=no', 'No such file']),
    (['--tls_cert=no'], ['--tls_cert=no', 'without TLS', 'https://']),
    (['--url=https://a:1', '--tls_cert=no'], ['--tls_cert=no', 'No such file']),
    (['--data=no.csv'], ['no.csv', 'No such file']),
    (['--json=no/dir/x.json'], ['--json=no/dir/x.json']),
  ],
)
def test_a_wrong_flag_ends_in_one_line(flags, words, peer, capsys):
  assert load(peer, 'grpc', *flags) == 1
  said = capsys.readouterr().err
  assert said.startswith('error: ')
  assert len(said.splitlines()) == 1
  for word in words:
    assert word in said


@pytest.mark.parametrize('protocol', ['grpc', 'http'])
def test_no_server_ends_in_one_line(protocol, capsys):
  assert main([f'--url={protocol}://127.0.0.1:1', '--model=ctr']) == 1
  said = capsys.readouterr().err
  assert f'{protocol}://127.0.0.1:1' in said
  assert len(said.splitlines()) == 1


def test_requests_of_http_do_not_wait_for_each_other():
  """More than aiohttp has connections for by itself."""
  count, under_way, all_came = 300, 0, asyncio.Event()

  async def answer(request):
    nonlocal under_way
    under_way += 1
    if under_way == count:
      all_came.set()
    await all_came.wait()
    return aiohttp.web.json_response({})

  async def ask():
    app = aiohttp.web.Application()
    app.add_routes([aiohttp.web.post('/v2/models/ctr/infer', answer)])
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, '127.0.0.1', 0).start()
    url = f'http://127.0.0.1:{runner.addresses[0][1]}'
    flags = parser_of('').parse_args([f'--url={url}', '--model=ctr'])
    wire = HttpWire(url.removeprefix('http://'), wanted_of(flags))
    asked = [wire.ask((b'{}', {})) for _ in range(count)]
    await asyncio.wait_for(asyncio.gather(*asked), 60)
    await wire.close()
    await runner.cleanup()

  asyncio.run(ask())


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('dlrm_jax.serving') is None,
  reason='there is no dlrm_jax.serve',
)
def test_the_server_of_this_project_is_loaded(plain, export):
  server = subprocess.Popen(
    [
      *(sys.executable, '-m', 'dlrm_jax.serve', f'--model=ctr={export}'),
      *('--http=0', '--grpc=0'),
    ],
    cwd=commands.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  with server:
    try:
      lines = iter(server.stdout.readline, '')
      found = [next(lines)]
      while found[-1] != 'ready\n':
        found.append(next(lines))
      http, grpc = re.findall(r'(?:http|grpc)://[^ ,\n]+', found[0])
      rows = plain.folder.parent / 'log.csv'
      for url in (http, grpc):
        flags = f'--url={url}', '--model=ctr', SHORT, '--concurrency=2'
        assert main(flags) == 0  # made-up rows
        assert main([*flags, f'--data={rows}', '--batch=16']) == 0
    finally:
      server.terminate()
