r"""Scores rows with a trained model, and writes a probability for each.

  python -m dlrm_jax.predict --workdir=runs/kaggle --data=new.txt \
    --output=scores.parquet
  python -m dlrm_jax.predict --workdir=models/ctr --data='day_*.parquet' \
    --keep=id,time --output=scores.csv
  zcat log.gz | python -m dlrm_jax.predict --workdir=... --data=- --output=...

Rows are of the kind that the model was trained on, or Parquet or CSV with the
names of its columns; they need no label. The output has their order. The
workdir may be an export.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrm_jax import heap
from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.scoring.model import Model
  from dlrm_jax.scoring.sources import RowSource


def _parser() -> argparse.ArgumentParser:
  parser = Parser(prog='python -m dlrm_jax.predict', description=__doc__)
  parser.add_required('--workdir', 'DIR', 'a training run, or an export')
  add = parser.add_argument
  parser.add_data(
    'a prepared set; or raw files, folders of them, globs; or -, standard '
    'input',
    required=True,
  )
  parser.add_required('--output', 'FILE', 'file to write: .csv or .parquet')
  add('--split', help='split of a prepared set (default: test)')
  add(
    '--keep',
    default='',
    metavar='NAMES',
    help='columns of the rows to write, too, between commas',
  )
  parser.add_checkpoint()
  parser.add_on_bad_row('count it and leave its prediction empty')
  return parser


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Loads the model, scores the rows and writes the file."""
  arguments = _parser().parse_args(split_values(argv, ('--data',)))
  output = Path(arguments.output)
  heap.keep_freed_memory()
  from dlrm_jax.predict.columns import check_names
  from dlrm_jax.program_cache import keep_programs
  from dlrm_jax.scoring.load import load
  from dlrm_jax.scoring.row_files import check_name
  from dlrm_jax.scoring.sources import source_of

  keep_programs()
  check_name(output, f'--output={output}')
  model = load(arguments.workdir, arguments.checkpoint)
  kept = tuple(filter(None, arguments.keep.split(',')))
  check_names(model.labels, kept)
  source = source_of(
    *(model, arguments.data, arguments.split, kept, arguments.on_bad_row),
    stream=sys.stdin.buffer,
  )
  if output.exists() and any(
    os.path.exists(x) and output.samefile(x) for x in source.names
  ):
    raise InputError(
      f'--output={output}: it is a file of --data, whose rows would be lost; '
      'choose another name'
    )
  print(model)
  if model.engine:
    print(f'layers    {model.engine}')
  print(f'{", ".join(source.names[:4])} -> {output}', flush=True)
  _write(model, source, kept, output)


def _write(
  model: 'Model', source: 'RowSource', kept: tuple[str, ...], output: Path
) -> None:
  from tqdm import tqdm

  from dlrm_jax.predict.columns import predictions_frame
  from dlrm_jax.scoring.predictions import predictions
  from dlrm_jax.scoring.row_files import writer_of

  count = bad = 0
  with (
    writer_of(output) as writer,
    tqdm(
      desc='rows',
      total=source.about or None,
      unit=' rows',
      unit_scale=True,
      delay=1,
      mininterval=0.1 if sys.stderr.isatty() else 10,
    ) as bar,
  ):
    tasks = len(model.labels)
    for some in predictions(model.scorer, source.rows(), tasks):
      writer.add(predictions_frame(some, model.labels, kept))
      count += len(some.good)
      bad += len(some.good) - len(some.scores)
      bar.update(len(some.good))
    if not count:
      raise InputError(f'{", ".join(source.names)}: no rows to score')
  for line in source.notes():
    print(line)
  empty = f', {bad:,} of them bad and without a prediction' if bad else ''
  print(f'{output}: {count:,} rows{empty}')


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
