"""Raw click logs -> a prepared set on disk, once; training reads that.

python -m dlrm_jax.prepare criteo --input=train.txt --output=data/criteo
python -m dlrm_jax.prepare movielens --output=data/movielens
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from dlrm_jax.errors import InputError, exit_cleanly

_FILES = ('--input', '--validation_input', '--test_input')


class _Parser(argparse.ArgumentParser):
  """Wrong usage is one line, as every other mistake."""

  def error(self, message: str) -> NoReturn:
    raise InputError(f'{message} (see {self.prog} --help)')


def _criteo(flags: argparse.Namespace) -> None:
  from dlrm_jax.data import criteo, criteo_files, criteo_splits

  parts = {'train': flags.input}
  if flags.validation_input:
    parts['validation'] = flags.validation_input
  if flags.test_input:
    parts['test'] = flags.test_input
  if flags.splits and len(parts) > 1:
    raise InputError(
      '--splits cuts one log; with --validation_input or --test_input the '
      'files are the splits: leave --splits out'
    )
  splits = None if len(parts) > 1 else flags.splits or criteo_splits.DEFAULT
  # None: not given (argparse overlooks a clash when a default is spelt out).
  min_count = 1 if flags.min_count is None else flags.min_count
  options = criteo.Options(min_count, flags.hash_rows, splits, flags.on_bad_row)
  if splits:
    parts = {'all': flags.input}
  for part, files in parts.items():
    for file in files:
      megabytes = criteo_files.check_readable(file) / 1e6
      print(f'{part:<12}{file} ({megabytes:,.1f} MB)')
  print(f'{"splits":<12}{splits or "the files"}')
  print(f'{"categories":<12}{options.described}')
  print(f'{"bad rows":<12}{options.on_bad_row}')
  print(f'{"output":<12}{flags.output}', flush=True)
  criteo.prepare(parts, flags.output, options, flags.overwrite)


def _movielens(flags: argparse.Namespace) -> None:
  from dlrm_jax.data import movielens

  print(f'{"data set":<12}movielens/{flags.name}')
  print(f'{"input":<12}{flags.input or "downloaded"}')
  print(f'{"output":<12}{flags.output}', flush=True)
  movielens.prepare(flags.name, flags.output, flags.input, flags.overwrite)


def _add_criteo(kind: argparse.ArgumentParser) -> None:
  kind.set_defaults(make=_criteo, config='configs/criteo_kaggle.py')
  files = {'nargs': '+', 'action': 'extend', 'metavar': 'FILE', 'default': None}
  kind.add_argument(
    '--input', required=True, help='logs in time order, plain or gzip', **files
  )
  for name in ('validation', 'test'):
    kind.add_argument(
      f'--{name}_input', help=f'logs of {name}; --input is then train', **files
    )
  kind.add_argument(
    '--splits',
    metavar='NAME=SHARE,...',
    help='shares in file order (default: train=6/7,validation=1/14,test=1/14)',
  )
  rows = kind.add_mutually_exclusive_group()
  rows.add_argument(
    '--min_count',
    type=int,
    metavar='T',
    help='ids that fewer than T training rows have share row 0 (default: 1)',
  )
  rows.add_argument(
    '--hash_rows',
    type=int,
    metavar='R',
    help='no vocabulary: hash each column into R rows',
  )
  kind.add_argument(
    '--on_bad_row',
    choices=('stop', 'skip'),
    default='stop',
    help='stop at a bad row (default), or skip and count it',
  )


def _add_movielens(kind: argparse.ArgumentParser) -> None:
  kind.set_defaults(make=_movielens, config='configs/movielens.py')
  kind.add_argument(
    '--name',
    default='latest-small-ratings',
    help='name within TFDS (default: %(default)s)',
  )
  kind.add_argument(
    '--input', metavar='ZIP', help='the archive; without it TFDS downloads'
  )


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog='python -m dlrm_jax.prepare',
    description='Prepares a click log for training, once.',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
  helps = []
  for name, add, about in (
    ('criteo', _add_criteo, 'Criteo display-advertising logs'),
    ('movielens', _add_movielens, 'MovieLens ratings, through TFDS'),
  ):
    kind = kinds.add_parser(
      name, help=about, description=f'{about}.', allow_abbrev=False
    )
    add(kind)
    kind.add_argument('--output', required=True, help='folder to make')
    kind.add_argument(
      '--overwrite', action='store_true', help='replace a prepared set there'
    )
    helps.append(kind.format_help())
  parser.epilog = '\n'.join(helps)
  return parser


def _summary(output: str, config: str, seconds: float) -> None:
  from dlrm_jax.data.prepared import open_prepared

  prepared = open_prepared(output)
  total = sum(prepared.splits.values())
  print(f'{total:,} rows in {seconds:.1f} s ({total / seconds:,.0f} rows/s)')
  for line in prepared.details.get('skipped', ()):
    print(line)
  for split, count in prepared.splits.items():
    rate = prepared.clicks[split] / count
    print(f'{split:<12}{count:>13,} rows, click rate {rate:.4f}')
  columns = prepared.schema.sparse
  rows = sum(column.rows for column in columns)
  print(
    f'{len(prepared.schema.dense)} dense features; '
    f'{len(columns)} sparse with {rows:,} table rows:'
  )
  for start in range(0, len(columns), 6):
    group = columns[start : start + 6]
    print('  ' + '  '.join(f'{c.name} {c.rows:,}' for c in group))
  print(
    f'train on it: python train.py --config={config} '
    f'--config.data.dir={os.path.abspath(output)} --workdir=WORKDIR'
  )


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Makes the set that the flags ask for, and says what is in it."""
  parts: list[str] = []
  for arg in argv:  # argparse takes --input=A, but not the B of --input=A B
    split = arg.startswith(tuple(f'{name}=' for name in _FILES))
    parts.extend(arg.split('=', 1) if split else [arg])
  flags = _parser().parse_args(parts)
  start = time.monotonic()
  flags.make(flags)
  _summary(flags.output, flags.config, time.monotonic() - start)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
