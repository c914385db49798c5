"""Lookup, and update, of FBGEMM's tables or PyTorch's.

A contender: run by `benchmarks.lookup` and `benchmarks.update` with a Python
that has PyTorch and FBGEMM, which are imported as installed.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import peer_models, pooled
from benchmarks.serving import serve

LookUp = Callable[[torch.Tensor], torch.Tensor]


def fbgemm(shape: pooled.Shape, batch: int, optimizer: str) -> LookUp:
  """All tables in one kernel; they are updated in the backward pass."""
  tables = peer_models.fbgemm_tables(
    shape.rows, shape.dim, optimizer == pooled.ADAGRAD, pooled.RATE
  )
  last = len(shape.rows) * batch * shape.length
  offsets = torch.arange(0, last + 1, shape.length)
  return lambda ids: tables(ids.reshape(-1), offsets)


def fbgemm_codes(shape: pooled.Shape, batch: int, kind: str) -> LookUp:
  """All tables in one kernel, for inference, in rows of int8 or int4."""
  tables = peer_models.fbgemm_inference_tables(shape.rows, shape.dim, kind)
  last = len(shape.rows) * batch * shape.length
  offsets = torch.arange(0, last + 1, shape.length, dtype=torch.int32)
  return lambda ids: tables(ids.reshape(-1), offsets)


def bags(shape: pooled.Shape, batch: int) -> tuple[LookUp, Callable[[], None]]:
  """A `torch.nn.EmbeddingBag` for each table, and the step of its SGD."""
  tables = [
    torch.nn.EmbeddingBag(rows, shape.dim, mode='sum', sparse=True)
    for rows in shape.rows
  ]
  sgd = torch.optim.SGD([t.weight for t in tables], lr=pooled.RATE)
  offsets = torch.arange(0, batch * shape.length, shape.length)

  def look_up(ids: torch.Tensor) -> torch.Tensor:
    parts = zip(tables, ids, strict=True)
    return torch.cat([t(x.reshape(-1), offsets) for t, x in parts], 1)

  def step() -> None:
    sgd.step()
    sgd.zero_grad()

  return look_up, step


def main() -> None:
  """Serves measurements of the lookup, with or without an update."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--shape', required=True)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--optimizer', default='', help='none: lookup only')
  parser.add_argument('--bags', action='store_true', help="PyTorch's own")
  parser.add_argument('--kind', default='', help='of rows: int8 or int4')
  arguments = parser.parse_args()
  shape, batch = pooled.SHAPES[arguments.shape], arguments.batch
  dtype: type[np.signedinteger] = np.int64
  if arguments.kind:
    look_up, step = fbgemm_codes(shape, batch, arguments.kind), lambda: None
    dtype = np.int32  # with which they are faster
  elif arguments.bags:
    look_up, step = bags(shape, batch)
  else:
    look_up, step = fbgemm(shape, batch, arguments.optimizer), lambda: None
  batches = itertools.cycle(
    [
      torch.from_numpy(ids.astype(dtype))
      for ids in pooled.draw(shape, batch, 8)
    ]
  )

  def measure() -> dict[str, float]:
    start = time.perf_counter()
    for _ in range(arguments.steps):
      if arguments.optimizer:
        vectors = look_up(next(batches))
        vectors.backward(vectors.detach())
        step()
      else:
        with torch.no_grad():
          look_up(next(batches))
    return {'ms': (time.perf_counter() - start) / arguments.steps * 1e3}

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
