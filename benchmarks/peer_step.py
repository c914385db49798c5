"""The training step of facebookresearch/dlrm, and of torchrec with FBGEMM.

A contender: run by `benchmarks.step` with a Python that has PyTorch. The
first is imported from the path that the user gives, the others as installed.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import kaggle
from benchmarks.serving import serve

Step = Callable[[], None]


def reference(path: str, batches: list[kaggle.Drawn]) -> Step:
  """Of facebookresearch/dlrm: its model, PyTorch's SGD."""
  sys.path.insert(0, path)
  import dlrm_s_pytorch

  vectors = len(kaggle.ROWS) + 1
  top = (vectors * (vectors - 1) // 2 + kaggle.DIM, *kaggle.TOP)
  model = dlrm_s_pytorch.DLRM_Net(
    kaggle.DIM,
    np.array(kaggle.ROWS),
    np.array((kaggle.DENSE, *kaggle.BOTTOM)),
    np.array(top),
    arch_interaction_op='dot',
    sigmoid_top=len(top) - 2,
  )
  optimizer = torch.optim.SGD(model.parameters(), lr=kaggle.RATE)
  offsets = torch.arange(len(batches[0].labels))
  prepared = itertools.cycle(
    [
      (
        torch.from_numpy(b.dense),
        [offsets] * len(kaggle.ROWS),
        [torch.from_numpy(x).long() for x in b.ids.T.copy()],
        torch.from_numpy(b.labels)[:, None],
      )
      for b in batches
    ]
  )

  def step() -> None:
    dense, at, ids, labels = next(prepared)
    loss = model.loss_fn(model(dense, at, ids), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

  return step


def torchrec(batches: list[kaggle.Drawn], rowwise: bool) -> Step:
  """Torchrec's layers; tables and their update in FBGEMM's kernels."""
  from fbgemm_gpu.split_embedding_configs import EmbOptimType
  from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    EmbeddingLocation,
  )
  from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
  )
  from torchrec.models import dlrm

  features, size = len(kaggle.ROWS), len(batches[0].labels)
  tables = SplitTableBatchedEmbeddingBagsCodegen(
    [
      (rows, kaggle.DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)
      for rows in kaggle.ROWS
    ],
    optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD
    if rowwise
    else EmbOptimType.EXACT_SGD,
    learning_rate=kaggle.RATE,
  )
  tables.init_embedding_weights_uniform(-0.01, 0.01)
  bottom = dlrm.DenseArch(kaggle.DENSE, list(kaggle.BOTTOM))
  vectors = features + 1
  pairs = vectors * (vectors - 1) // 2 + kaggle.DIM
  top = dlrm.OverArch(pairs, list(kaggle.TOP))
  interact = dlrm.InteractionArch(features)
  loss_fn = torch.nn.BCEWithLogitsLoss()
  layers = [*bottom.parameters(), *top.parameters()]
  optimizer = torch.optim.SGD(layers, lr=kaggle.RATE)
  offsets = torch.arange(features * size + 1)
  prepared = itertools.cycle(
    [
      (
        torch.from_numpy(b.dense),
        torch.from_numpy(b.ids.T.copy().reshape(-1)).long(),
        torch.from_numpy(b.labels),
      )
      for b in batches
    ]
  )

  def step() -> None:
    dense, ids, labels = next(prepared)
    looked_up = tables(ids, offsets).reshape(size, features, kaggle.DIM)
    joined = interact(bottom(dense), looked_up)
    loss = loss_fn(top(joined)[:, 0], labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

  return step


def main() -> None:
  """Serves measurements of one peer."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--dlrm', default='', help='facebookresearch/dlrm')
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--rowwise', action='store_true')
  parser.add_argument('--bfloat16', action='store_true')
  arguments = parser.parse_args()
  batches = kaggle.draw(arguments.batch, 8)
  if arguments.dlrm:
    step = reference(arguments.dlrm, batches)
  else:
    step = torchrec(batches, arguments.rowwise)

  def measure() -> dict[str, float]:
    start = time.perf_counter()
    with torch.autocast('cpu', torch.bfloat16, enabled=arguments.bfloat16):
      for _ in range(arguments.steps):
        step()
    seconds = time.perf_counter() - start
    return {'examples/s': arguments.batch * arguments.steps / seconds}

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
