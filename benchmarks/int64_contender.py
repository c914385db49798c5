"""A product of matrices s64. A contender of `benchmarks.int64_products`.

Each way imports its own library only.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from benchmarks.serving import serve

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SECONDS = 0.3
"""Of a measurement, at least."""


def by_kernel() -> Product:
  """Ours, with its kernel where it was compiled."""
  from dlrm_jax.quantization.int64 import int64_matmul

  return int64_matmul


def by_digits() -> Product:
  """Ours without a kernel."""
  from dlrm_jax import native
  from dlrm_jax.quantization.int64 import int64_matmul

  return native.left_out()(int64_matmul)


def by_numpy() -> Product:
  """NumPy's."""
  return np.matmul


def by_torch() -> Product:
  """PyTorch's; its arrays share memory with NumPy's."""
  import torch

  return lambda a, b: (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


_WAYS: dict[str, Callable[[], Product]] = {
  'kernel': by_kernel,
  'digits': by_digits,
  'numpy': by_numpy,
  'torch': by_torch,
}


def main() -> None:
  """Serves measurements of one way, whose product is checked first."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('way', choices=_WAYS)
  parser.add_argument('--size', type=int, required=True)
  arguments = parser.parse_args()
  product, size = _WAYS[arguments.way](), arguments.size
  chance = np.random.default_rng(0)
  a, b = chance.integers(-(2**63), 2**63 - 1, (2, size, size))
  np.testing.assert_array_equal(product(a, b), a @ b)

  def measure() -> dict[str, float]:
    start, count, seconds = time.perf_counter(), 0, 0.0
    while seconds < _SECONDS:
      product(a, b)
      count += 1
      seconds = time.perf_counter() - start
    return {'GOP/s': count * 2 * size**3 / seconds / 1e9}

  serve(measure)


if __name__ == '__main__':
  main()
