"""The page: what it asks for, and what a person sees in a browser."""

import http.client
import json
import re
import shutil

import numpy as np
import pytest
import tritonclient.http as over_http

from dlrm_jax.scoring.load import load
from tests.serving import served
from tests.serving.calls import post
from tests.serving.test_reload import replace

EXPLAIN = '/page/explain/ctr'
ROW = {
  'price': '3', 'age': '0.5', 'user': '5', 'site': 'ff', 'word': 'x',
  'city': 'city 1', 'tags': 'tag1|tag2',
}  # fmt: skip
EMPTY = {'price': None, 'age': None, 'tags': []}


def get(server, path):
  connection = http.client.HTTPConnection(server.http, timeout=60)
  connection.request('GET', path)
  response = connection.getresponse()
  found = response.headers, response.read().decode()
  assert response.status == 200
  connection.close()
  return found


def logits(model, rows):
  p = model.predict(rows).astype(np.float64)
  return np.log(p / (1 - p))


def typed(row):
  """A row as lists of values of Python."""
  values = row | {
    'price': float(row['price']), 'age': float(row['age']),
    'user': int(row['user']), 'tags': row['tags'].split('|'),
  }  # fmt: skip
  return {name: [value] for name, value in values.items()}


def test_what_moves_a_score(server, plain):
  status, _, body = post(server, json.dumps({'row': ROW}), EXPLAIN)
  assert status == 200, body
  found, model = json.loads(body), load(plain.folder)
  (full,) = logits(model, typed(ROW))
  assert found['labels'] == ['click']
  np.testing.assert_allclose(found['logit'], [full], atol=1e-4)
  np.testing.assert_allclose(
    found['probability'], model.predict(typed(ROW)), atol=1e-6
  )
  assert [column['names'] for column in found['columns']] == [
    [name] for name in ROW
  ]
  for column in found['columns']:
    (name,) = column['names']
    without = typed(ROW) | {name: [EMPTY.get(name)]}
    (change,) = full - logits(model, without)
    np.testing.assert_allclose(column['change'], [change], atol=1e-4)
    assert column['values'] == [ROW[name]]
  moved = [abs(column['change'][0]) for column in found['columns']]
  assert max(moved) > 0.01


def test_a_row_of_more_columns_than_a_batch_has_rows(server, export):
  limits = served.LIMITS._replace(max_batch=3)
  body = json.dumps({'row': ROW})
  with served.serving({'ctr': export}, limits) as small:
    status, _, answer = post(small, body, EXPLAIN)
  assert status == 200, answer
  found, want = json.loads(answer), json.loads(post(server, body, EXPLAIN)[2])
  for one, other in zip(found['columns'], want['columns'], strict=True):
    assert one['names'] == other['names']
    np.testing.assert_allclose(one['change'], other['change'], atol=1e-5)


def test_a_bag_and_its_weights_are_left_out_together(server):
  row = ROW | {'seen': '1|2', 'scores': '0.5|2'}
  status, _, body = post(server, json.dumps({'row': row}), '/page/explain/bags')
  assert status == 200, body
  last = json.loads(body)['columns'][-1]
  assert (last['names'], last['values']) == (
    ['seen', 'scores'],
    ['1|2', '0.5|2'],
  )
  assert last['change'] != [0.0]


@pytest.mark.parametrize(
  ('body', 'words'),
  [
    ({}, 'there is no row'),
    ({'row': {'nothing': '1'}}, "'nothing': expected texts"),
    ({'row': {'price': 1}}, "'price': expected texts"),
    ({'row': {'price': 'much'}}, 'row 0, column price: not a number'),
  ],
)
def test_wrong_rows(server, body, words):
  status, _, answer = post(server, json.dumps(body), EXPLAIN)
  assert status == 400
  assert words in json.loads(answer)['error']


def test_models_and_examples(server):
  _, text = get(server, '/page/models')
  found = {model['model']: model for model in json.loads(text)}
  assert list(found) == ['ctr', 'two', 'bags']
  columns = {x['name']: x for x in found['ctr']['columns']}
  assert list(columns) == list(ROW)
  assert columns['tags']['separator'] == '|'
  assert columns['tags']['example'].startswith('tag')
  assert columns['price']['example'] == '1'
  row = {name: x['example'] for name, x in columns.items()}
  status, _, body = post(server, json.dumps({'row': row}), EXPLAIN)
  assert status == 200, body


def test_the_page_loads_nothing_from_elsewhere(server):
  headers, text = get(server, '/')
  assert headers['Content-Type'].startswith('text/html')
  assert "default-src 'none'" in headers['Content-Security-Policy']
  assert not re.findall(r'(?:src|href|url)\s*[=(]', text)
  links = re.findall(r'https?://[^\'"\s]+', text)
  assert links == ['http://www.w3.org/2000/svg']


@pytest.fixture(scope='module')
def browser():
  """A headless Chromium."""
  api = pytest.importorskip('playwright.sync_api', reason='no Playwright')
  program = shutil.which('chromium') or shutil.which('google-chrome')
  if program is None:
    pytest.skip('no Chromium')
  with api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=program, args=['--no-sandbox']
    )
    yield browser
    browser.close()


def test_a_person_scores_a_row(server, plain, browser, tmp_path):
  page = browser.new_page()
  errors = []
  page.on('console', lambda m: m.type == 'error' and errors.append(m.text))
  page.on('pageerror', lambda error: errors.append(str(error)))
  page.goto(f'http://{server.http}/')
  page.wait_for_selector('#models tr')
  names = page.locator('#models tr td:first-child').all_inner_texts()
  assert names == ['ctr', 'two', 'bags']
  page.wait_for_selector('input[name=price]')
  for name, value in ROW.items():
    page.fill(f'input[name={name}]', value)
  page.click('button')
  page.wait_for_selector('#changes tr')
  (want,) = load(plain.folder).predict(typed(ROW))
  text = page.inner_text('#probability')
  assert text == f'click {float(f"{100 * want:.3g}"):g} %'
  columns = page.locator('#changes tr td:first-child').all_inner_texts()
  assert sorted(columns) == sorted(ROW)
  changes = page.locator('#changes tr td:nth-child(3)').all_inner_texts()
  sizes = [abs(float(change)) for change in changes]
  assert sizes == sorted(sizes, reverse=True)
  page.fill('input[name=price]', 'much')
  page.click('button')
  page.wait_for_selector('#error:has-text("not a number")')
  with page.expect_response('**/page/models'):  # it shows the models again
    pass
  assert 'not a number' in page.inner_text('#error')
  assert errors == ['Failed to load resource: the server responded with a '
                    'status of 400 (Bad Request)']  # fmt: skip
  page.select_option('#model', 'two')
  page.click('button')
  page.wait_for_selector('#probability:has-text("buy")')
  page.screenshot(path=tmp_path / 'page.png', full_page=True)
  page.close()


def test_a_page_that_is_open_while_a_model_gets_other_columns(
  export, weighted, browser, tmp_path
):
  folder = shutil.copytree(weighted.folder, tmp_path / 'model')
  with served.serving({'ctr': folder}) as server:
    page = browser.new_page()
    page.goto(f'http://{server.http}/')
    page.wait_for_selector('input[name=seen]')
    replace(folder, export)
    server.do(server.service.load('ctr'))
    page.wait_for_selector('input[name=seen]', state='detached')
    assert page.locator('input[name=tags]').count()
    page.fill('input[name=price]', '7')
    with page.expect_response('**/page/models'):
      pass
    with page.expect_response('**/page/models'):  # what is typed stays
      pass
    assert page.input_value('input[name=price]') == '7'
    page.click('button')
    page.wait_for_selector('#probability:has-text("click")')
    page.close()


def test_a_page_that_is_open_while_models_come_and_go(export, browser):
  errors, models = [], {'ctr': export, 'etc': export}
  with (
    served.serving(models) as server,
    over_http.InferenceServerClient(server.http) as client,
  ):
    client.unload_model('ctr')
    page = browser.new_page()
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.goto(f'http://{server.http}/')
    page.wait_for_selector('#models tr:has-text("unloaded")')
    options = page.locator('#model option')
    assert options.all_inner_texts() == ['etc']
    client.load_model('ctr')
    page.wait_for_selector('#model option >> nth=1', state='attached')
    assert options.all_inner_texts() == ['ctr', 'etc']
    assert page.input_value('#model') == 'etc'
    client.unload_model('etc')
    page.wait_for_selector('#models tr:has-text("unloaded")')
    assert options.all_inner_texts() == ['ctr']
    page.click('button')
    page.wait_for_selector('#probability:has-text("click")')
    page.close()
  assert not errors
