r"""Measures popularity and locality of the ids of a data set.

  python -m dlrm_jax.traces --data=data/kaggle --output=trace.json
  python -m dlrm_jax.traces --dist_emb dist_emb_*.log --output=trace.json
  python train.py --config=configs/synthetic.py \
    --config.data.synthetic.trace=trace.json --workdir=runs/trace

The first command measures a prepared set. The second converts files that
facebookresearch/dlrm publishes, one for each feature. The third trains on ids
drawn from the traces, to measure speed without the data. Locality depends on
the order of the rows in the set.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrm_jax import files
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.traces.trace import Trace


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog='python -m dlrm_jax.traces',
    description=__doc__,
  )
  add = parser.add_argument
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--data', metavar='DIR', help='a prepared set')
  what.add_argument(
    '--dist_emb', nargs='+', metavar='FILE', help='published distributions'
  )
  add('--output', required=True, metavar='FILE', help='JSON to write')
  add(
    '--split',
    default='train',
    help='split of the set to measure (default: %(default)s)',
  )
  add(
    '--examples',
    type=int,
    default=1_000_000,
    metavar='N',
    help='measure the first N examples (default: %(default)s)',
  )
  return parser


def _measure(flags: argparse.Namespace) -> Mapping[str, 'Trace']:
  from dlrm_jax.data.prepared import open_prepared
  from dlrm_jax.traces import fit, trace_files

  if flags.dist_emb:
    read = enumerate(map(trace_files.read_dist_emb, flags.dist_emb), 1)
    return {f'C{number}': trace for number, trace in read}
  if flags.examples < 1:
    raise InputError(f'--examples={flags.examples}: expected 1 or more')
  source = open_prepared(flags.data).source(flags.split)
  traces = fit.fit_source(source, flags.examples)
  if not traces:
    raise InputError(f'--data={flags.data}: split {flags.split} has no ids')
  return traces


def _table(traces: Mapping[str, 'Trace']) -> Iterator[str]:
  """Lines of a table with a row for each feature."""
  yield '                       hot ids                  distances of others'
  yield 'feature           rows  number   share exponent     new  largest'
  for name, trace in traces.items():
    yield (
      f'{name:<10}{trace.rows:>12,}{trace.hot:>8,}{trace.hot_share:>8.4f}'
      f'{trace.exponent:>9.3f}{trace.cumulative[0]:>8.4f}'
      f'{trace.distances[-1]:>9,}'
    )


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Measures, prints and writes."""
  from dlrm_jax.traces import trace_files

  flags = _parser().parse_args(argv)
  files.check_writable(Path(flags.output), f'--output={flags.output}')
  traces = _measure(flags)
  trace_files.write_traces(traces, flags.output)
  print(*_table(traces), sep='\n')
  print(f'see {flags.output}')


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
