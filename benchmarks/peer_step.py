"""The training step of facebookresearch/dlrm, and of torchrec with FBGEMM.

A contender: run by `benchmarks.step` with a Python that has PyTorch. The
first is imported from the path that the user gives, the others as installed.
Where bfloat16 is emulated a step can take half a minute: such steps are made
until some seconds are over, and those of a longer one are made once.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable

import torch

from benchmarks import kaggle, peer_models
from benchmarks.serving import serve

Step = Callable[[bool], None]
"""Makes one step, its forward pass in bfloat16 or not."""

_MOST = 5.0
"""Seconds after which a measurement makes no further step."""


def reference(path: str, batches: list[kaggle.Drawn]) -> Step:
  """Of facebookresearch/dlrm: its model, PyTorch's SGD."""
  model = peer_models.reference(path)
  optimizer = torch.optim.SGD(model.parameters(), lr=kaggle.RATE)
  offsets = torch.arange(len(batches[0].labels))
  prepared = itertools.cycle(
    [
      (
        torch.from_numpy(b.dense),
        [offsets] * peer_models.FEATURES,
        [torch.from_numpy(x).long() for x in b.ids.T.copy()],
        torch.from_numpy(b.labels)[:, None],
      )
      for b in batches
    ]
  )

  def step(half: bool) -> None:
    dense, at, ids, labels = next(prepared)
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
      chances = model(dense, at, ids)
    loss = model.loss_fn(chances.float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

  return step


def torchrec(batches: list[kaggle.Drawn], rowwise: bool) -> Step:
  """Torchrec's layers; tables and their update in FBGEMM's kernels."""
  model = peer_models.torchrec(rowwise)
  loss_fn = torch.nn.BCEWithLogitsLoss()
  optimizer = torch.optim.SGD(model.layers, lr=kaggle.RATE)
  size = len(batches[0].labels)
  offsets = torch.arange(peer_models.FEATURES * size + 1)
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

  def step(half: bool) -> None:
    dense, ids, labels = next(prepared)
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
      logits = model.logits(dense, ids, offsets)
    loss = loss_fn(logits.float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

  return step


def seconds_of(step: Callable[[], None], most: int) -> float:
  """Seconds of a step, by so many of them at most."""
  start, made, seconds = time.perf_counter(), 0, 0.0
  while made < most and seconds < _MOST:
    step()
    made += 1
    seconds = time.perf_counter() - start
  return seconds / made


def main() -> None:
  """Serves measurements of one peer; what it does not have is left out."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--dlrm', default='', help='facebookresearch/dlrm')
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--kinds', required=True, help='as in float32,rowwise')
  arguments = parser.parse_args()
  kinds = arguments.kinds.split(',')
  batches = kaggle.draw(arguments.batch, 8)
  if arguments.dlrm:
    sgd = reference(arguments.dlrm, batches)
  else:
    sgd = torchrec(batches, rowwise=False)
  # Under torch.autocast a step is the same program.
  steps = {kind: sgd for kind in kinds if kind != 'rowwise'}
  if 'rowwise' in kinds and not arguments.dlrm:
    steps['rowwise'] = torchrec(batches, rowwise=True)

  seconds: dict[str, float] = {}

  def measure() -> dict[str, float]:
    for kind, step in steps.items():
      if seconds.get(kind, 0.0) < _MOST:
        one = functools.partial(step, kind == 'bfloat16')
        seconds[kind] = seconds_of(one, arguments.steps)
    return {kind: arguments.batch / of for kind, of in seconds.items()}

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
