r"""Converts models from and to facebookresearch/dlrm and torchrec.

  python -m dlrm_jax.convert --from=fb --input=model.pt \
    --config=configs/criteo_kaggle.py --workdir=runs/kaggle
  python -m dlrm_jax.convert --to=torchrec --workdir=runs/kaggle \
    --output=model.pt

--from makes a workdir, which train.py goes on with; with --config.data.dir=SET
its columns are those of a set, without it and without config.data.expected the
sizes are those of the file. --to writes a checkpoint of a workdir. The page
docs/convert.md explains what fits.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrm_jax.config import command_line
from dlrm_jax.config.parser import Parser
from dlrm_jax.configs import default
from dlrm_jax.errors import InputError, exit_cleanly

if TYPE_CHECKING:
  from dlrm_jax.convert.program import Program

_PROGRAMS = ('fb', 'torchrec')


def _parser(argv: Sequence[str]) -> Parser:
  """The parser of the flags of one direction; of both for --help."""
  parser = Parser(prog='python -m dlrm_jax.convert', description=__doc__)
  both = parser.add_mutually_exclusive_group(required=True)
  both.add_argument(
    '--from',
    dest='source',
    choices=_PROGRAMS,
    help='make a workdir of a file of facebookresearch/dlrm (fb) or torchrec',
  )
  both.add_argument(
    '--to',
    dest='target',
    choices=_PROGRAMS,
    help='write a checkpoint of a workdir for one of them',
  )
  words = [word.partition('=')[0] for word in argv]
  if '--to' not in words:
    command_line.add_config(parser)
    parser.add_required(
      '--input',
      'PATH',
      'with --from: .pt file; of torchrec also a folder of '
      'torch.distributed.checkpoint',
    )
  parser.add_required('--workdir', 'DIR', 'folder of the run, made by --from')
  if '--from' not in words:
    parser.add_argument(
      '--checkpoint',
      default='best',
      help='with --to: best (by the objective), latest, or a step (default: '
      'best)',
    )
    parser.add_required(
      '--output',
      'PATH',
      'with --to: .pt file to make; of torchrec also a folder, where the name '
      'does not end in .pt',
    )
  return parser


def _program(name: str) -> 'Program':
  from dlrm_jax.convert.facebook import FACEBOOK
  from dlrm_jax.convert.torchrec import TORCHREC

  return {'fb': FACEBOOK, 'torchrec': TORCHREC}[name]


def _defaults() -> dict[str, Any]:
  return default.get_config().to_dict()


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Converts in one direction."""
  parser, named = _parser(argv), {word.partition('=')[0] for word in argv}
  if not named & {'--from', '--to', '--help', '-h'}:
    raise InputError(
      f'expected --from=PROGRAM or --to=PROGRAM (see {parser.prog} --help)'
    )
  if '--to' in named:
    _export(parser.parse_args(argv))
  else:
    _import(parser, argv)


def _import(parser: Parser, argv: Sequence[str]) -> None:
  """Makes a workdir."""
  from dlrm_jax.convert.importing import import_model

  defaults = _defaults()
  flags = command_line.read_flags(parser, argv, defaults)
  notes = command_line.notes_of_unused(argv, flags.config, defaults)
  folder = Path(flags.workdir)
  lines = import_model(
    _program(flags.source), Path(flags.input), flags.config, folder, defaults
  )
  print(*lines, *(f'note: {note}' for note in notes), sep='\n')


def _export(flags: argparse.Namespace) -> None:
  """Writes a checkpoint."""
  from dlrm_jax.convert.exporting import export_model

  folder, output = Path(flags.workdir), Path(flags.output)
  program = _program(flags.target)
  lines = export_model(program, folder, flags.checkpoint, output, _defaults())
  print(*lines, sep='\n')


def run() -> int:
  """The command."""
  import jax

  jax.config.update('jax_platforms', 'cpu')  # No accelerator is needed.
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
