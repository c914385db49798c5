r"""Converts models from and to facebookresearch/dlrm, torchrec and tables.

  python -m dlrm_jax.convert --from=fb --input=model.pt \
    --config=configs/criteo_kaggle.py --workdir=runs/kaggle
  python -m dlrm_jax.convert --to=torchrec --workdir=runs/kaggle \
    --output=model.pt
  python -m dlrm_jax.convert --to=tables --workdir=runs/kaggle \
    --tables C3=C3.parquet C4=C4.csv

--from makes a workdir, which a training goes on with; with
--config.data.dir=SET its columns are those of a set, without it and without
config.data.expected the sizes are those of the file. --to writes a checkpoint
of a workdir. The page docs/convert.md explains what fits. `--from=KIND --help`
and `--to=KIND --help` show the flags of that kind alone.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrm_jax.config import command_line
from dlrm_jax.config.parser import Parser, split_values
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.convert.program import Program

_TABLES = 'tables'
_KINDS = ('fb', 'torchrec', _TABLES)
_PROGRAM = 'python -m dlrm_jax.convert'
_USAGE = f"""{_PROGRAM} --from={{fb,torchrec}}
         --input PATH --config FILE [--config.FIELD=VALUE ...] --workdir DIR
       {_PROGRAM} --from=tables
         --tables FEATURE[/ROLE]=FILE ... --config FILE
         [--config.FIELD=VALUE ...] --workdir DIR
       {_PROGRAM} --to={{fb,torchrec}}
         --workdir DIR [--checkpoint CHECKPOINT] --output PATH
       {_PROGRAM} --to=tables
         --workdir DIR [--checkpoint CHECKPOINT]
         --tables FEATURE[/ROLE]=FILE ..."""
"""What --help begins with where no direction is named."""


def _value(argv: Sequence[str], flag: str) -> str | None:
  """The value of a flag, before all flags are parsed; None: it is not there."""
  for word, following in itertools.pairwise((*argv, '')):
    name, mark, value = word.partition('=')
    if name == flag:
      return value if mark else following
  return None


def _parser(argv: Sequence[str]) -> Parser:
  """The parser of the flags of one direction; of both for --help."""
  source, target = _value(argv, '--from'), _value(argv, '--to')
  parser = Parser(
    prog=_PROGRAM,
    description=__doc__,
    usage=_USAGE if source is target else None,
  )
  both = parser.add_mutually_exclusive_group(required=True)
  both.add_argument(
    '--from',
    dest='source',
    choices=_KINDS,
    help='make a workdir of a file of facebookresearch/dlrm (fb) or torchrec, '
    'or of files of values and their vectors (tables)',
  )
  both.add_argument(
    '--to',
    dest='target',
    choices=_KINDS,
    help='write a checkpoint of a workdir as one of them',
  )
  if target is None:
    command_line.add_config(parser)
    if source != _TABLES:
      parser.add_required(
        '--input',
        'PATH',
        'with --from: .pt file; of torchrec also a folder of '
        'torch.distributed.checkpoint',
      )
  parser.add_required('--workdir', 'DIR', 'folder of the run, made by --from')
  if source is None:
    parser.add_checkpoint('with --to: ')
    if target != _TABLES:
      parser.add_required(
        '--output',
        'PATH',
        'with --to: .pt file to make; of torchrec also a folder, where the '
        'name does not end in .pt',
      )
  if _TABLES in (source, target) or source is target:
    parser.add_argument(
      '--tables',
      nargs='+',
      action='extend',
      required=source is not target,
      metavar='FEATURE[/ROLE]=FILE',
      help='with tables: for each feature a .parquet or .csv file of its '
      'values and vectors; /ROLE says which vectors, where the model has '
      'several of a feature',
    )
  return parser


def _program(name: str) -> 'Program':
  from dlrm_jax.convert.facebook import FACEBOOK
  from dlrm_jax.convert.torchrec import TORCHREC

  return {'fb': FACEBOOK, 'torchrec': TORCHREC}[name]


def _defaults() -> dict[str, Any]:
  return default.get_config().to_dict()


def _import(
  parser: Parser, argv: Sequence[str], defaults: Mapping[str, Any]
) -> Iterator[str]:
  """Makes a workdir; yields lines that say what was done."""
  flags = command_line.read_flags(parser, argv, defaults)
  notes = command_line.notes_of_unused(argv, flags.config, defaults)
  folder = Path(flags.workdir)
  if flags.source == _TABLES:
    from dlrm_jax.convert.pretrained import import_vectors
    from dlrm_jax.convert.vectors import read_pairs

    pairs = read_pairs(flags.tables)
    yield from import_vectors(flags.config, folder, pairs, defaults)
  else:
    from dlrm_jax.convert.importing import import_model

    yield from import_model(
      *(_program(flags.source), Path(flags.input), flags.config),
      *(folder, defaults),
    )
  yield from (f'note: {note}' for note in notes)


def _export(
  parser: Parser, argv: Sequence[str], defaults: Mapping[str, Any]
) -> Iterator[str]:
  """Writes a checkpoint; yields lines that say what was done."""
  flags = parser.parse_args(argv)
  folder = Path(flags.workdir)
  if flags.target == _TABLES:
    from dlrm_jax.convert.vectors import export_vectors, read_pairs

    pairs = read_pairs(flags.tables)
    yield from export_vectors(folder, flags.checkpoint, pairs)
  else:
    from dlrm_jax.convert.exporting import export_model

    yield from export_model(
      *(_program(flags.target), folder, flags.checkpoint),
      *(Path(flags.output), defaults),
    )


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Converts in one direction."""
  argv = split_values(argv, ('--tables',))
  parser, defaults = _parser(argv), _defaults()
  source, target = _value(argv, '--from'), _value(argv, '--to')
  if source is None and target is None and not {'-h', '--help'} & {*argv}:
    raise InputError(
      f'expected --from=KIND or --to=KIND (see {parser.prog} --help)'
    )
  convert = _import if target is None else _export
  for line in convert(parser, argv, defaults):
    print(line)


def run() -> int:
  """The command."""
  import jax

  jax.config.update('jax_platforms', 'cpu')  # No accelerator is needed.
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
