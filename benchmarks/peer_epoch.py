"""FuxiCTR's epoch of Frappe. A contender: run by `benchmarks.frappe`.

Run with a Python that has FuxiCTR and `polars<1`, as its registry has them.
Its package has no DLRM, so one is put together from its parts: embeddings side
by side, then its MLP. Training, validation, the loader and the checkpoint of
the best epoch are its own.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import MLP_Block
from fuxictr.pytorch.layers.embeddings import FeatureEmbedding
from fuxictr.pytorch.models import BaseModel

from benchmarks.serving import serve

_DIM, _LAYERS, _DROPOUT, _PENALTY = 10, [400, 400, 400], 0.4, 0.1
_RATE, _BATCH = 1e-3, 4096
_LABEL = 'label'


class _Model(BaseModel):
  """DLRM without dense features, interaction `cat`."""

  def __init__(self, features: FeatureMap, folder: str) -> None:
    super().__init__(
      features,
      model_id='dlrm',
      model_root=folder,
      metrics=['AUC', 'logloss'],
      embedding_regularizer=_PENALTY,
      net_regularizer=0,
      verbose=0,
    )
    self.embedding = FeatureEmbedding(features, _DIM)
    self.layers = MLP_Block(
      input_dim=features.num_fields * _DIM,
      output_dim=1,
      hidden_units=_LAYERS,
      output_activation=self.output_activation,
      dropout_rates=_DROPOUT,
      batch_norm=True,
    )
    self.compile('adam', 'binary_crossentropy', lr=_RATE)
    self.reset_parameters()
    self.model_to_device()

  def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    vectors = self.embedding(self.get_inputs(inputs))
    return {'y_pred': self.layers(vectors.flatten(start_dim=1))}


def _written(train: str, validation: str, folder: str) -> FeatureMap:
  """Writes both splits as arrays, ids numbered within each field from 1.

  An id that only the validation has becomes 0.
  """
  tables = {'train': pd.read_csv(train), 'valid': pd.read_csv(validation)}
  features = FeatureMap('frappe', folder)
  features.labels, features.default_emb_dim = [_LABEL], _DIM
  ids: dict[str, dict[str, np.ndarray]] = {name: {} for name in tables}
  for field in tables['train'].columns.drop(_LABEL):
    known = np.unique(tables['train'][field])
    for name, table in tables.items():
      place = np.searchsorted(known, table[field]).clip(max=len(known) - 1)
      found = known[place] == table[field].to_numpy()
      ids[name][field] = np.where(found, place + 1, 0)
    features.features[field] = {
      'type': 'categorical',
      'source': '',
      'vocab_size': len(known) + 1,
    }
  features.num_fields = features.get_num_fields()
  features.set_column_index()
  for name, table in tables.items():
    labels = {_LABEL: table[_LABEL].to_numpy()}
    arrays: Any = ids[name] | labels
    np.savez(Path(folder) / f'{name}.npz', **arrays)
  return features


def main() -> None:
  """Serves measurements of an epoch with its validation."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--train', required=True, help='CSV')
  parser.add_argument('--validation', required=True, help='CSV')
  arguments = parser.parse_args()
  torch.set_num_threads(os.cpu_count() or 1)
  with tempfile.TemporaryDirectory() as folder:
    features = _written(arguments.train, arguments.validation, folder)
    loaders = {
      name: NpzDataLoader(
        features,
        str(Path(folder) / name),
        batch_size=_BATCH,
        shuffle=name == 'train',
      )
      for name in ('train', 'valid')
    }
    model = _Model(features, folder)
    Path(model.model_dir).mkdir(exist_ok=True)

    def measure() -> dict[str, float]:
      start = time.perf_counter()
      model.fit(loaders['train'], epochs=1, validation_data=loaders['valid'])
      # fit keeps the AUC of its one epoch as the best.
      return {
        'epoch': time.perf_counter() - start,
        'auc': float(model._best_metric),
      }

    measure()
    serve(measure)


if __name__ == '__main__':
  main()
