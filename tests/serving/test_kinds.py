"""Models of all kinds are served: quantised, on devices, without raw values."""

import numpy as np
import pytest
import tritonclient.grpc as over_grpc

import dlrm_jax
from dlrm_jax.quantize.__main__ import main as quantize
from dlrm_jax.scoring.load import load
from dlrm_jax.serving import Client
from dlrm_jax.serving.waiting import Limits
from tests import scored, small
from tests.serving import served

LIMITS = Limits(max_batch=16, max_delay=0.0, max_queue_rows=64)


def check(server, model):
  """A served model says what the loaded one does."""
  schema, chance = model.card.schema, np.random.default_rng(0)
  dense = chance.normal(size=(11, len(schema.dense))).astype(np.float32)
  ids = np.concatenate(
    [
      chance.integers(-1, column.rows, (11, column.hotness), np.int32)
      for column in schema.sparse
    ],
    axis=1,
  )
  want = model.score(dense, ids)
  with over_grpc.InferenceServerClient(server.grpc) as client:
    tensors = served.network_tensors(over_grpc, (dense, ids))
    answer = client.infer('model', tensors)
  found = answer.as_numpy('probability')[:, 0]
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
  logit = answer.as_numpy('logit')[:, 0]
  np.testing.assert_allclose(1 / (1 + np.exp(-logit)), found, atol=1e-6)


def test_a_quantised_model(plain, tmp_path):
  out = tmp_path / 'int8'
  assert not quantize(
    [f'--workdir={plain.folder}', '--tables=int8', f'--output={out}']
  )
  model = load(out)
  rows = scored.columns_of(scored.rows_of(4, 40), model.intake.schema)
  with served.serving({'model': out}, LIMITS) as server:
    check(server, model)
    found = Client(server.grpc).predict(rows)
  np.testing.assert_allclose(found, model.predict(rows), rtol=0, atol=1e-6)


def test_int8_layers_are_multiplied_by_what_predict_takes(
  plain, tmp_path, monkeypatch
):
  onnxruntime = pytest.importorskip('onnxruntime')
  opened, session = [], onnxruntime.InferenceSession

  def opening(*arguments, **options):
    opened.append(session(*arguments, **options))
    return opened[-1]

  monkeypatch.setattr(onnxruntime, 'InferenceSession', opening)
  out = tmp_path / 'int8'
  assert not quantize(
    [f'--workdir={plain.folder}', '--layers=int8', f'--output={out}']
  )
  model = load(out)
  with served.serving({'model': out}, LIMITS) as server:
    version = server.service.repository.find('model')
    assert version.program.engine == model.engine
    assert f'layers of {model.engine}; ' in version.describe()
    assert 'onnxruntime' in model.engine
    assert len(opened) == 2  # for few rows and for many, of the server alone
    check(server, model)


def test_tables_over_devices(tmp_path):
  """Batches are padded to a multiple of the devices."""
  run = scored.of_log(
    tmp_path / 'run', scored.ONE_HOT, devices=8, tables__shards=8
  )
  model = load(run.folder)
  with served.serving({'model': run.folder}, LIMITS) as server:
    version = server.service.repository.find('model')
    assert version.program.sizes == [8, 16]
    assert 'on 8 devices' in version.describe()
    check(server, model)


@pytest.mark.slow
def test_a_model_whose_ids_are_rows(tmp_path):
  """As of synthetic logs, and of converted models."""
  config = small.get_config()
  config.train.steps = config.train.checkpoint_every = 2
  config.train.eval_every = 2
  config.train.fresh_tables = False
  config.optimizer.name = config.table_optimizer.name = 'adagrad'
  dlrm_jax.train(config, tmp_path / 'run')
  model = load(tmp_path / 'run')
  with served.serving({'model': tmp_path / 'run'}, LIMITS) as server:
    check(server, model)
    version = server.service.repository.find('model')
    assert [c.example for c in version.columns if c.name[0] == 'C'] == ['0'] * 4
    rows = {
      name: [[1, 2], [3]] if spec.row == (-1,) else [1, 2]
      for name, spec in version.interface.columns.items()
    }
    found = Client(server.grpc).predict(rows)
    np.testing.assert_allclose(found, model.predict(rows), rtol=0, atol=1e-6)
