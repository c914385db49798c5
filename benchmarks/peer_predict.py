"""Scoring a raw log with facebookresearch/dlrm: run by `benchmarks.predict`.

Its own loader reads the log, and its model of the Kaggle shape scores the rows
of split train, which are six of the seven parts of the log.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import peer_models

BATCH = 2048
_MOST_IDS = 10_000_000  # the modulus that its Kaggle script has


def main() -> None:
  """Scores the log and prints rows and seconds as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--dlrm', required=True)
  parser.add_argument('--input', required=True)
  parser.add_argument('--work', required=True)
  arguments = parser.parse_args()
  sys.path.insert(0, arguments.dlrm)
  import dlrm_data_pytorch

  folder = Path(tempfile.mkdtemp(dir=arguments.work))
  log = folder / 'train.txt'  # it writes beside its input
  shutil.copyfile(arguments.input, log)
  start = time.perf_counter()
  data = dlrm_data_pytorch.CriteoDataset(
    'kaggle', _MOST_IDS, 0.0, 'none', 'train', str(log), ''
  )
  ready = time.perf_counter()
  loader = torch.utils.data.DataLoader(
    data,
    batch_size=BATCH,
    collate_fn=dlrm_data_pytorch.collate_wrapper_criteo_offset,
  )
  model = peer_models.reference(arguments.dlrm, data.counts)
  begin, rows = time.perf_counter(), 0
  with torch.inference_mode():
    for dense, offsets, ids, _ in loader:
      rows += len(model(dense, offsets, ids).numpy())
  seconds = time.perf_counter() - begin
  print(
    json.dumps(
      {'rows': rows, 'scoring': seconds, 'preprocessing': ready - start}
    )
  )


if __name__ == '__main__':
  main()
