"""Scoring with the peers' models. A contender: run by `benchmarks.inference`.

Calls take and give NumPy arrays, as ours do.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import kaggle, peer_models
from benchmarks.latency import quantiles
from benchmarks.serving import serve

Call = Callable[[np.ndarray, np.ndarray], np.ndarray]


def reference(path: str, batch: int) -> Call:
  """Of facebookresearch/dlrm."""
  model = peer_models.reference(path)
  offsets = [torch.arange(batch)] * peer_models.FEATURES

  def call(dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    by_feature = list(torch.from_numpy(ids).long().T.contiguous())
    return model(torch.from_numpy(dense), offsets, by_feature).numpy()

  return call


def torchrec(batch: int) -> Call:
  """Of torchrec with FBGEMM."""
  model = peer_models.torchrec(rowwise=False)
  offsets = torch.arange(peer_models.FEATURES * batch + 1)

  def call(dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    flat = torch.from_numpy(ids).long().T.reshape(-1)
    logits = model.logits(torch.from_numpy(dense), flat, offsets)
    return torch.sigmoid(logits).numpy()

  return call


def torchrec_int8(batch: int) -> Call:
  """Of torchrec, with FBGEMM's tables and PyTorch's dynamic layers of int8."""
  model = peer_models.torchrec_int8()
  offsets = torch.arange(peer_models.FEATURES * batch + 1, dtype=torch.int32)

  def call(dense: np.ndarray, ids: np.ndarray) -> np.ndarray:
    flat = torch.from_numpy(ids).T.reshape(-1)
    logits = model(torch.from_numpy(dense), flat, offsets)
    return torch.sigmoid(logits).numpy()

  return call


def main() -> None:
  """Serves measurements of one peer."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--dlrm', default='', help='facebookresearch/dlrm')
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--calls', type=int, required=True)
  parser.add_argument('--kind', choices=('float32', 'int8'), default='float32')
  arguments = parser.parse_args()
  # FBGEMM's lookup is not there in inference mode.
  mode: Any = torch.no_grad()
  if arguments.kind == 'int8':
    call = torchrec_int8(arguments.batch)
  elif arguments.dlrm:
    call = reference(arguments.dlrm, arguments.batch)
    mode = torch.inference_mode()
  else:
    call = torchrec(arguments.batch)
  inputs = [(b.dense, b.ids) for b in kaggle.draw(arguments.batch, 64)]
  with mode:
    measure = functools.partial(quantiles, call, inputs, arguments.calls)
    measure()
    serve(measure)


if __name__ == '__main__':
  main()
