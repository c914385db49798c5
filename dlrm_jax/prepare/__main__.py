"""Prepares raw click logs, once: a set on disk, which training reads.

python -m dlrm_jax.prepare criteo --input=train.txt --output=data/criteo
python -m dlrm_jax.prepare movielens --output=data/movielens
python -m dlrm_jax.prepare implicit --input=train.rating --output=data/ratings
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlrm_jax.callable_module import shown
from dlrm_jax.config.parser import Parser, split_values, train_command
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.prepare.splits import DEFAULT, MOVIELENS_DEFAULT

if TYPE_CHECKING:
  from dlrm_jax.data.prepared import Prepared

_FILES = ('--input', '--validation_input', '--test_input')


def _add_log(kind: Parser) -> None:
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
  kind.add_on_bad_row()
  _add_common(kind, DEFAULT)


def _add_common(kind: Parser, splits: str) -> None:
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
  _add_output(kind)


def _add_criteo(kind: Parser) -> None:
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


def _add_raw(kind: Parser) -> None:
  kind.add_argument(
    '--config',
    default='',
    metavar='FILE.py',
    help='config whose data.raw says what the columns are',
  )
  _add_log(kind)


def _add_movielens(kind: Parser) -> None:
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


def _add_implicit(kind: Parser) -> None:
  kind.set_defaults(config='configs/ncf.py')
  add = kind.add_argument
  add(
    '--input',
    required=True,
    nargs='+',
    action='extend',
    metavar='FILE',
    help='lines of user, item, rating and time between tabs, without a header',
  )
  add(
    '--hold_out',
    choices=('last', 'none'),
    default='last',
    help='hold out the last item of each user as split validation (default), '
    'or train on all rows',
  )
  add(
    '--seed',
    type=int,
    default=0,
    help='of the order of split train and of the negatives of split '
    'validation (default: 0)',
  )
  kind.add_on_bad_row()
  _add_output(kind)


def _add_output(kind: Parser) -> None:
  kind.add_argument('--output', required=True, help='folder to make')
  kind.add_argument(
    '--overwrite', action='store_true', help='replace a prepared set there'
  )


def _parsers() -> tuple[Parser, dict[str, Parser]]:
  """The parser of the command, and those of each kind."""
  parser = Parser(
    prog='python -m dlrm_jax.prepare',
    description='Prepares a click log for training, once.',
  )
  kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
  of_kinds: dict[str, Parser] = {}
  for name, add, about in (
    ('criteo', _add_criteo, 'Criteo display-advertising logs'),
    ('raw', _add_raw, 'CSV, Parquet, libsvm, ...: what config.data.raw says'),
    ('movielens', _add_movielens, 'MovieLens ratings, through TFDS'),
    ('implicit', _add_implicit, 'items of users, the last held out to rank'),
  ):
    kind = kinds.add_parser(name, help=about, description=f'{about}.')
    add(kind)
    of_kinds[name] = kind
  parser.epilog = '\n'.join(x.format_help() for x in of_kinds.values())
  return parser, of_kinds


def options_of(kind: str, options: Mapping[str, Any]) -> argparse.Namespace:
  """The options of a call of `dlrm_jax.prepare`, which describes them.

  Raises:
    InputError: there is no such kind or option, or it has a wrong value.
  """
  _, of_kinds = _parsers()
  if kind not in tuple(of_kinds):
    raise InputError(f'kind is {shown(kind)}; expected {", ".join(of_kinds)}')
  return argparse.Namespace(kind=kind, **vars(of_kinds[kind].read(options)))


def _split_lines(prepared: 'Prepared') -> Iterator[str]:
  """Size and click rate of each split, and what is unusual in it."""
  from dlrm_jax.data.lists import IMPLICIT, lists_of
  from dlrm_jax.metrics.binary import lacking

  for split, count in prepared.splits.items():
    one = {'click': [count, prepared.clicks[split]]}
    labels = prepared.labels[split] or one
    rates = ', '.join(
      f'{name} rate {ones / max(1, known):.4f}'
      for name, (known, ones) in labels.items()
    )
    found = lists_of(prepared.details, split)
    lists = f', lists of {found.length} to rank' if found else ''
    yield f'{split:<12}{count:>13,} rows, {rates}{lists}'
    for name, (known, ones) in labels.items():
      lacks = lacking(known, ones)
      if lacks and prepared.details['kind'] != IMPLICIT:
        what = f'label {name} has' if len(labels) > 1 else 'it has'
        yield f'WARNING: split {split}: {what} {lacks}: AUC is undefined on it'
      if known < count:
        yield f'{"":<12}{count - known:>13,} of them without {name}'


def _summary(output: str, config: str, seconds: float) -> None:
  from dlrm_jax.data.prepared import open_prepared
  from dlrm_jax.text import duration

  prepared = open_prepared(output)
  total = sum(prepared.splits.values())
  rate = f'{total / seconds:,.0f} rows/s'
  print(f'{total:,} rows in {duration(seconds)} ({rate})')
  for line in prepared.details.get('skipped', ()):
    print(line)
  print(*_split_lines(prepared), sep='\n')
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
    f'train on it: {train_command()} --config={config} '
    f'--config.data.dir={output} --workdir=WORKDIR'
  )


def prepared(options: argparse.Namespace) -> None:
  """Prepares the set that the options ask for, and prints a summary."""
  # Imported here, because --help needs neither.
  from dlrm_jax.prepare import request
  from dlrm_jax.prepare.implicit import implicit_set
  from dlrm_jax.prepare.work import check_output

  check_output(options.output, options.overwrite)
  start = time.monotonic()
  if options.kind == 'implicit':
    implicit_set.prepare_implicit(
      options.input,
      options.output,
      hold_out=options.hold_out == 'last',
      seed=options.seed,
      on_bad_row=options.on_bad_row,
      overwrite=options.overwrite,
    )
  else:
    request.run_request(options, request.request_of(options))
  _summary(options.output, options.config, time.monotonic() - start)


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Prepares a set; a mistake ends with one line."""
  parser, _ = _parsers()
  prepared(parser.parse_args(split_values(argv, _FILES)))


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
