"""The models of the peers in the Kaggle shape, imported as installed."""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import kaggle

FEATURES = len(kaggle.ROWS)
_VECTORS = FEATURES + 1
_PAIRS = _VECTORS * (_VECTORS - 1) // 2 + kaggle.DIM


def reference(path: str, rows: Sequence[int] = kaggle.ROWS) -> torch.nn.Module:
  """The model of facebookresearch/dlrm; tells probabilities f32[B, 1].

  Args:
    path: of a checkout.
    rows: numbers of rows of the 26 tables.
  """
  sys.path.insert(0, path)
  import dlrm_s_pytorch

  top = (_PAIRS, *kaggle.TOP)
  return dlrm_s_pytorch.DLRM_Net(
    kaggle.DIM,
    np.array(rows),
    np.array((kaggle.DENSE, *kaggle.BOTTOM)),
    np.array(top),
    arch_interaction_op='dot',
    sigmoid_top=len(top) - 2,
  )


Logits = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(dense f32[B, 13], ids [26 * B] feature by feature, offsets [26 * B + 1]) ->
f32[B]; integers are i64, of low precision i32."""


class Torchrec(NamedTuple):
  """Torchrec's layers over FBGEMM's tables.

  Attributes:
    logits: the model.
    layers: parameters of the layers; tables are updated backward.
  """

  logits: Logits
  layers: list[torch.nn.Parameter]


def fbgemm_tables(
  rows: Sequence[int], dim: int, rowwise: bool, rate: float
) -> torch.nn.Module:
  """FBGEMM's tables, updated in the backward pass.

  Args:
    rows: of each table.
    dim: D.
    rowwise: row-wise Adagrad, or SGD.
    rate: of learning.
  """
  from fbgemm_gpu.split_embedding_configs import EmbOptimType
  from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    EmbeddingLocation,
  )
  from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
  )

  tables = SplitTableBatchedEmbeddingBagsCodegen(
    [(n, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in rows],
    optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD
    if rowwise
    else EmbOptimType.EXACT_SGD,
    learning_rate=rate,
  )
  tables.init_embedding_weights_uniform(-0.01, 0.01)
  return tables


def fbgemm_inference_tables(
  rows: Sequence[int], dim: int, kind: str
) -> torch.nn.Module:
  """FBGEMM's tables of low precision, with drawn rows; sums are float32.

  Args:
    rows: of each table.
    dim: D.
    kind: of rows, int8 or int4.
  """
  from fbgemm_gpu.split_embedding_configs import SparseType
  from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    EmbeddingLocation,
  )
  from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
  )

  dtype = SparseType(kind)
  tables = IntNBitTableBatchedEmbeddingBagsCodegen(
    [('', n, dim, dtype, EmbeddingLocation.HOST) for n in rows],
    output_dtype=SparseType.FP32,
    device='cpu',
  )
  tables.fill_random_weights()
  return tables


def torchrec(rowwise: bool, rows: Sequence[int] = kaggle.ROWS) -> Torchrec:
  """With SGD, or row-wise Adagrad, in FBGEMM's kernels.

  Args:
    rowwise: row-wise Adagrad.
    rows: numbers of rows of the 26 tables.
  """
  tables = fbgemm_tables(rows, kaggle.DIM, rowwise, kaggle.RATE)
  bottom, top = _layers()
  logits = _logits(tables, bottom, top)
  return Torchrec(logits, [*bottom.parameters(), *top.parameters()])


def torchrec_int8() -> Logits:
  """Rows of int8, and layers quantised as `quantize_dynamic` does, to int8."""
  tables = fbgemm_inference_tables(kaggle.ROWS, kaggle.DIM, 'int8')
  layers = (
    torch.ao.quantization.quantize_dynamic(
      layer, {torch.nn.Linear}, dtype=torch.qint8
    )
    for layer in _layers()
  )
  return _logits(tables, *layers)


def _layers() -> tuple[torch.nn.Module, torch.nn.Module]:
  """The bottom and the top layers of torchrec."""
  from torchrec.models import dlrm

  bottom = dlrm.DenseArch(kaggle.DENSE, list(kaggle.BOTTOM))
  return bottom, dlrm.OverArch(_PAIRS, list(kaggle.TOP))


def _logits(
  tables: torch.nn.Module, bottom: torch.nn.Module, top: torch.nn.Module
) -> Logits:
  """A model of tables and layers, with torchrec's interaction."""
  from torchrec.models import dlrm

  interact = dlrm.InteractionArch(FEATURES)

  def logits(
    dense: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor
  ) -> torch.Tensor:
    vectors = tables(ids, offsets).reshape(-1, FEATURES, kaggle.DIM)
    return top(interact(bottom(dense), vectors))[:, 0]

  return logits
