"""torchrec's model behind FastAPI. A contender: run by `benchmarks.served`.

The body of a request is the dense features, f32[B, 13], and behind them the
ids, i32[B, 26]; that of an answer the probabilities, f32[B]. Requests are
scored in the thread pool, each alone.
"""

import argparse
import socket

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks import kaggle, peer_models

_WIDTH = kaggle.DENSE + peer_models.FEATURES


def app(rows: list[int]) -> FastAPI:
  """The server of a model with so many rows in each table."""
  model = peer_models.torchrec(rowwise=False, rows=rows)
  offsets: dict[int, torch.Tensor] = {}

  def score(body: bytes) -> bytes:
    count = len(body) // (4 * _WIDTH)
    split = 4 * count * kaggle.DENSE
    dense = np.frombuffer(body[:split], np.float32).reshape(count, -1)
    ids = np.frombuffer(body[split:], np.int32).reshape(count, -1)
    if count not in offsets:
      offsets[count] = torch.arange(peer_models.FEATURES * count + 1)
    # FBGEMM's lookup is not there in inference mode.
    with torch.no_grad():
      flat = torch.from_numpy(ids.T.astype(np.int64).ravel())
      logits = model.logits(torch.tensor(dense), flat, offsets[count])
      return torch.sigmoid(logits).numpy().tobytes()

  server = FastAPI()

  @server.post('/score')
  async def answer(request: Request) -> Response:
    body = await request.body()
    return Response(await run_in_threadpool(score, body))

  return server


def main() -> None:
  """Serves at a free port, which it prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rows', required=True, help='of each table, by commas')
  arguments = parser.parse_args()
  made = app(list(map(int, arguments.rows.split(','))))
  held = socket.create_server(('127.0.0.1', 0))
  print(f'ready at http://127.0.0.1:{held.getsockname()[1]}', flush=True)
  config = uvicorn.Config(made, log_config=None, access_log=False)
  uvicorn.Server(config).run([held])


if __name__ == '__main__':
  main()
