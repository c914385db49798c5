"""FuxiCTR's epoch of Frappe. A contender: run by `benchmarks.family`.

Run with a Python that has FuxiCTR and `polars<1`, as its registry has them.
Its package has no models, so they are put together from its layers, with the
settings of BARS. Training, validation, the loader and the checkpoint of
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
from fuxictr.pytorch.layers import (
  CrossNetV2,
  FactorizationMachine,
  MLP_Block,
)
from fuxictr.pytorch.layers.embeddings import FeatureEmbedding
from fuxictr.pytorch.models import BaseModel

from benchmarks.serving import serve

_DIM, _LAYERS, _CROSSES = 10, [400, 400, 400], 4
_PENALTY_AND_DROPOUT = {
  'dlrm': (0.1, 0.4),
  'deepfm': (0.05, 0.2),
  'dcn': (0.05, 0.4),
  'fm': (5e-6, 0.0),
}
_RATE, _BATCH = 1e-3, 4096
_LABEL = 'label'


class _Model(BaseModel):
  """A model of sparse features alone.

  `dlrm` has vectors side by side and an MLP, `deepfm` a factorization machine
  beside it, `dcn` crosses (DCN-V2, parallel); `fm` is that machine alone.
  """

  def __init__(self, features: FeatureMap, name: str, folder: str) -> None:
    penalty, dropout = _PENALTY_AND_DROPOUT[name]
    super().__init__(
      features,
      model_id=name,
      model_root=folder,
      metrics=['AUC', 'logloss'],
      embedding_regularizer=penalty,
      net_regularizer=0,
      verbose=0,
    )
    self.embedding = FeatureEmbedding(features, _DIM)
    self.layers = self.machine = self.crosses = None
    width = features.num_fields * _DIM
    if name != 'fm':
      self.layers = MLP_Block(
        input_dim=width,
        output_dim=None if name == 'dcn' else 1,
        hidden_units=_LAYERS,
        dropout_rates=dropout,
        batch_norm=True,
      )
    if name in ('fm', 'deepfm'):
      self.machine = FactorizationMachine(features)
    if name == 'dcn':
      self.crosses = CrossNetV2(width, _CROSSES)
      self.last = torch.nn.Linear(width + _LAYERS[-1], 1)
    self.compile('adam', 'binary_crossentropy', lr=_RATE)
    self.reset_parameters()
    self.model_to_device()

  def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = self.get_inputs(inputs)
    vectors = self.embedding(ids)
    flat = vectors.flatten(start_dim=1)
    if self.crosses is not None and self.layers is not None:
      both = torch.cat([self.crosses(flat), self.layers(flat)], dim=-1)
      logits = self.last(both)
    else:
      logits = 0 if self.layers is None else self.layers(flat)
      if self.machine is not None:
        logits = logits + self.machine(ids, vectors)
    return {'y_pred': self.output_activation(logits)}


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
  parser.add_argument('--model', required=True, choices=_PENALTY_AND_DROPOUT)
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
    model = _Model(features, arguments.model, folder)
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
