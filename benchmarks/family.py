"""An epoch of Frappe with its validation, beside FuxiCTR's, model by model.

python -m benchmarks.family --frappe=FOLDER [--fuxictr_python=PYTHON]

FOLDER has Frappe_x1 of BARS, train.csv and valid.csv. The models have the
settings of BARS: D = 10, layers 400-400-400 with batch normalisation and
dropout, an L2 penalty of the tables, dense Adam (tables.update='dense'), batch
4,096. Both read their batches, train, validate, and save. FuxiCTR comes from
the registry: `pip install fuxictr==2.3.10 'polars<1'`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine, peers
from benchmarks.contest import medians

_BFLOAT16 = 'bfloat16 products'
_MODELS = 'dlrm', 'dcn', 'deepfm', 'fm'


def prepare(source: Path, folder: Path) -> None:
  """Prepares Frappe.

  Args:
    source: folder with train.csv and valid.csv.
    folder: where the set goes.
  """
  command = [
    *(sys.executable, '-m', 'dlrm_jax.prepare', 'raw'),
    *('--config=configs/frappe.py', f'--input={source / "train.csv"}'),
    *(f'--validation_input={source / "valid.csv"}', f'--output={folder}'),
  ]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(
  model: str, source: Path, data: Path, peer_python: str, rounds: int
) -> dict[str, dict[str, float]]:
  """Seconds of an epoch, and the AUC after it, by contender.

  Args:
    model: a variant of configs/frappe.py.
    source: folder with train.csv and valid.csv.
    data: the same, prepared.
    peer_python: that has FuxiCTR, or ''.
    rounds: measurements of each.
  """
  ours = [sys.executable, '-m', 'benchmarks.our_epoch', f'--data={data}']
  ours.append(f'--variant={model}')
  commands = {peers.OURS: ours}
  if model != 'fm':  # it has no products
    commands[_BFLOAT16] = [*ours, '--dtype=bfloat16']
  if peer_python:
    commands[peers.FUXICTR] = [
      *(peer_python, '-m', 'benchmarks.peer_epoch', f'--model={model}'),
      *(f'--train={source / "train.csv"}',),
      f'--validation={source / "valid.csv"}',
    ]
  return medians(commands, rounds)


def compare(
  model: str, found: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
  """The rows of a model.

  Args:
    model: its name.
    found: what `measure` gives.
  """
  seconds = {name: values['epoch'] for name, values in found.items()}
  theirs = {k: v for k, v in seconds.items() if k == peers.FUXICTR}
  return [
    peers.row(
      f'epoch of Frappe with validation, {model}, {kind}',
      's',
      {peers.OURS: seconds[name], **theirs, 'AUC': found[name]['auc']},
    )
    for name, kind in ((peers.OURS, 'float32'), (_BFLOAT16, _BFLOAT16))
    if name in seconds
  ]


def main() -> None:
  """Times all models and prints what was seen."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--frappe', required=True, type=Path)
  parser.add_argument(
    '--fuxictr_python', default='', help='a Python with FuxiCTR; default: none'
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument(
    '--models', default=','.join(_MODELS), help='as in dlrm,fm'
  )
  arguments = parser.parse_args()
  source, python = arguments.frappe.absolute(), arguments.fuxictr_python
  models = arguments.models.split(',')
  if unknown := sorted({*models} - {*_MODELS}):
    parser.error(f'--models: no {unknown[0]}; there are {", ".join(_MODELS)}')
  for name in ('train.csv', 'valid.csv'):
    if not (source / name).is_file():
      parser.error(f'--frappe={arguments.frappe}: no {name} there')
  if python and shutil.which(python) is None:
    parser.error(f'--fuxictr_python={python}: no such program')
  rows = []
  with tempfile.TemporaryDirectory() as name:
    data = Path(name) / 'frappe'
    prepare(source, data)
    for model in models:
      found = measure(model, source, data, python, arguments.rounds)
      rows += compare(model, found)
  machine.show('family', rows)


if __name__ == '__main__':
  main()
