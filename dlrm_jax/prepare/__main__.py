"""Prepares raw click logs, once: a set on disk, which training reads.

python -m dlrm_jax.prepare criteo --input=train.txt --output=data/criteo
python -m dlrm_jax.prepare movielens --output=data/movielens
"""

import argparse
import sys
import time
from collections.abc import Sequence

from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.errors import exit_cleanly
from dlrm_jax.prepare.splits import DEFAULT, MOVIELENS_DEFAULT

_FILES = ('--input', '--validation_input', '--test_input')


def _add_log(kind: argparse.ArgumentParser) -> None:
  """Adds the options of logs that users have as files."""
  add = kind.add_argument
  files = {'nargs': '+', 'action': 'extend', 'metavar': 'FILE', 'default': None}
  add('--input', required=True, help='logs in time order', **files)
  for name in ('validation', 'test'):
    add(f'--{name}_input', help=f'logs of {name}; --input is train', **files)
  add(
    '--vocabulary',
    metavar='DIR',
    help='a prepared set whose ids are used; all input is split test, unless '
    '--splits or --validation_input or --test_input say otherwise',
  )
  add(
    '--keep_order',
    action='store_true',
    help='do not shuffle split train (others never are)',
  )
  add('--seed', type=int, help='of the shuffle (default: 0)')
  add(
    '--on_bad_row',
    choices=('stop', 'skip'),
    default='stop',
    help='stop at a bad row (default), or skip and count it',
  )
  _add_common(kind, DEFAULT)


def _add_common(kind: argparse.ArgumentParser, splits: str) -> None:
  """Adds the options that all kinds have."""
  add = kind.add_argument
  add(
    '--splits',
    metavar='NAME=SHARE,...',
    help=f'shares in file order (default: {splits})',
  )
  add(
    '--min_count',
    type=int,
    metavar='T',
    help='ids in fewer than T of the counted rows share a row (default: 1)',
  )
  add(
    '--memory',
    metavar='SIZE',
    help='to use, all workers together, as in 2GB (default: half of the free); '
    'with --beam of each worker (default: 2GB)',
  )
  add(
    '--beam',
    metavar='OPTIONS',
    help='Apache Beam does the work, on many machines; options of Beam and of '
    'its runner in one string, as in --beam="--runner=FlinkRunner '
    '--flink_master=HOST:8081"',
  )
  add('--output', required=True, help='folder to make')
  add('--overwrite', action='store_true', help='replace a prepared set there')


def _add_criteo(kind: argparse.ArgumentParser) -> None:
  kind.set_defaults(config='configs/criteo_kaggle.py')
  _add_log(kind)
  kind.add_argument(
    '--mode',
    help='how ids are numbered: frequency (default), fb or torchrec: as those '
    'programs do, their logarithms too',
  )
  kind.add_argument(
    '--max_ind_range',
    type=int,
    metavar='R',
    help='mode fb: ids modulo R before they are numbered',
  )
  kind.add_argument(
    '--hash_rows',
    type=int,
    metavar='R',
    help='no vocabulary: hash each column into R rows',
  )
  kind.add_argument(
    '--multi_hot',
    metavar='H,H,...',
    help='every id becomes a bag of H ids, made up as MLPerf does; a number '
    'for each sparse feature',
  )
  kind.add_argument(
    '--num_embeddings',
    metavar='R,R,...',
    help='rows of the tables, modulo which ids are taken; a number for each '
    'sparse feature (default: those of the vocabularies)',
  )


def _add_raw(kind: argparse.ArgumentParser) -> None:
  kind.add_argument(
    '--config',
    default='',
    metavar='FILE.py',
    help='config whose data.raw says what the columns are',
  )
  _add_log(kind)


def _add_movielens(kind: argparse.ArgumentParser) -> None:
  kind.set_defaults(config='configs/movielens.py')
  kind.add_argument(
    '--name',
    default='latest-small-ratings',
    help='name within TFDS (default: %(default)s)',
  )
  kind.add_argument(
    '--input', metavar='ZIP', help='the archive; without it TFDS downloads it'
  )
  _add_common(kind, MOVIELENS_DEFAULT)


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog='python -m dlrm_jax.prepare',
    description='Prepares a click log for training, once.',
  )
  kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
  helps = []
  for name, add, about in (
    ('criteo', _add_criteo, 'Criteo display-advertising logs'),
    ('raw', _add_raw, 'CSV, Parquet, libsvm, ...: what config.data.raw says'),
    ('movielens', _add_movielens, 'MovieLens ratings, through TFDS'),
  ):
    kind = kinds.add_parser(name, help=about, description=f'{about}.')
    add(kind)
    helps.append(kind.format_help())
  parser.epilog = '\n'.join(helps)
  return parser


def _summary(output: str, config: str, seconds: float) -> None:
  from dlrm_jax.data.prepared import open_prepared
  from dlrm_jax.metrics.binary import lacking
  from dlrm_jax.text import duration

  prepared = open_prepared(output)
  total = sum(prepared.splits.values())
  rate = f'{total / seconds:,.0f} rows/s'
  print(f'{total:,} rows in {duration(seconds)} ({rate})')
  for line in prepared.details.get('skipped', ()):
    print(line)
  for split, count in prepared.splits.items():
    one = {'click': [count, prepared.clicks[split]]}
    labels = prepared.labels[split] or one
    rates = {name: ones / max(1, n) for name, (n, ones) in labels.items()}
    shown = ', '.join(f'{name} rate {rate:.4f}' for name, rate in rates.items())
    print(f'{split:<12}{count:>13,} rows, {shown}')
    for name, (known, ones) in labels.items():
      if lacks := lacking(known, ones):
        label = f' of {name}' if len(labels) > 1 else ''
        print(
          f'WARNING: split {split} has {lacks}{label}: AUC is undefined on it'
        )
      if known < count:
        print(f'{"":<12}{count - known:>13,} of them without {name}')
  columns = prepared.schema.sparse
  rows = sum(column.rows for column in columns)
  print(
    f'{len(prepared.schema.dense)} dense features; '
    f'{len(columns)} sparse with {rows:,} table rows:'
  )
  for start in range(0, len(columns), 6):
    group = columns[start : start + 6]
    print('  ' + '  '.join(f'{c.name} {c.rows:,}' for c in group))
  if 'train' not in prepared.splits:
    print(
      'evaluate on it: python -m dlrm_jax.evaluate --workdir=WORKDIR '
      f'--data={output}'
    )
    return
  print(
    f'train on it: python train.py --config={config} '
    f'--config.data.dir={output} --workdir=WORKDIR'
  )


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Prepares the set that the options ask for, and prints a summary."""
  options = _parser().parse_args(split_values(argv, _FILES))
  # Imported here, because --help needs neither.
  from dlrm_jax.prepare import request
  from dlrm_jax.prepare.work import check_output

  check_output(options.output, options.overwrite)
  start = time.monotonic()
  request.run_request(options, request.request_of(options))
  _summary(options.output, options.config, time.monotonic() - start)


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
