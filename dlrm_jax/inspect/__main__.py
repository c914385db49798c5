"""Statistics of a prepared set: clicks over time, ids, missing values, drift.

  python -m dlrm_jax.inspect data/kaggle --output=kaggle.html

Prints a line for each feature; --output writes a page with plots. Statistics
that the set does not contain are measured on a random sample of its blocks.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax import files
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError, exit_cleanly

_BLOCKS = 250  # About a million rows.


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog='python -m dlrm_jax.inspect',
    description=__doc__,
  )
  add = parser.add_argument
  add('data', metavar='DATA', help='a prepared set')
  add('--output', metavar='FILE.html', help='write a page with plots')
  add('--json', metavar='FILE', help='write all numbers')
  add(
    '--sample',
    type=int,
    default=_BLOCKS,
    metavar='BLOCKS',
    help='blocks of 4,096 rows to read of each split (default: %(default)s)',
  )
  return parser


def _check(flags: argparse.Namespace) -> None:
  """Checks the flags before the work."""
  for name in ('output', 'json'):
    path = getattr(flags, name)
    if path:
      files.check_writable(Path(path), f'--{name}={path}')
  if flags.sample < 1:
    raise InputError(f'--sample={flags.sample}: expected 1 or more')


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Measures, prints and writes."""
  flags = _parser().parse_args(argv)
  _check(flags)
  from dlrm_jax.data.prepared import open_prepared
  from dlrm_jax.inspect import inspection_page, inspection_table
  from dlrm_jax.inspect.inspection import inspect

  prepared = open_prepared(flags.data)
  rows = sum(prepared.splits.values())
  print(f'{flags.data}: {rows:,} rows; at most {flags.sample} blocks a split')
  inspection = inspect(prepared, flags.sample)
  print(*inspection_table.inspection_lines(prepared, inspection), sep='\n')
  if flags.json:
    content = inspection_table.inspection_json(prepared, inspection)
    files.write_text(Path(flags.json), files.to_json(content) + '\n')
    print(f'see {flags.json}')
  if flags.output:
    page = inspection_page.page_of(prepared, inspection)
    files.write_text(Path(flags.output), page)
    print(f'see {flags.output}')


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
