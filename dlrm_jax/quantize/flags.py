"""The flags of the command, and whether they ask for one thing."""

import argparse
from pathlib import Path

from dlrm_jax import files
from dlrm_jax.config.fields import read_size
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError
from dlrm_jax.optim.block import Block, read_block
from dlrm_jax.quantization.method import Method

EXAMPLES = 100_000
SPLIT = 'validation'
BLOCK, FASTEST_BLOCK = '1x1', '1x16'
BATCH = 64
LIMITS = Method.MIN_MAX.value


def parser_of(description: str | None) -> argparse.ArgumentParser:
  """The parser of the command."""
  parser = Parser(prog='python -m dlrm_jax.quantize', description=description)
  parser.add_required('--workdir', 'DIR', 'folder of the training run')
  add = parser.add_argument
  add('--output', metavar='DIR', help='workdir to write; must not exist')
  add(
    '--tables',
    metavar='STORAGE',
    help='float32, bfloat16, float16, int8, int4 or int2; or '
    'FEATURE=STORAGE,..., where FEATURE may have * and ?, and the first that '
    'fits counts',
  )
  add('--memory', metavar='SIZE', help='most bytes of all tables, as 200MB')
  add(
    '--layers',
    choices=('float32', 'bfloat16', 'int8'),
    help='what layers multiply (default: as in training)',
  )
  add(
    '--calibrate',
    nargs='?',
    const='',
    metavar='SPLIT',
    help='int8 layers: limits of the inputs of each layer are found on a split '
    f'(default: {SPLIT}); without it, those of each example count',
  )
  add(
    '--limits',
    choices=[method.value for method in Method],
    help='what --calibrate finds: the least and the greatest input, those that '
    'one input in 10,000 is beyond, or those of the least squared error '
    f'(default: {LIMITS})',
  )
  add(
    '--outliers',
    type=int,
    default=0,
    metavar='N',
    help='inputs of each int8 layer, the largest on a split, that stay '
    'float32 (default: 0)',
  )
  add(
    '--sparsity',
    type=float,
    metavar='SHARE',
    help='prune the kernels of layers: the share of their blocks that go, the '
    'least first; what is then faster packed is multiplied so',
  )
  add(
    '--block',
    metavar='ROWSxCOLUMNS',
    help='size of the blocks of a kernel [in, out] that go together (default: '
    f'{BLOCK}; of --report {FASTEST_BLOCK})',
  )
  add(
    '--batch',
    type=int,
    metavar='N',
    help='examples of a call that packed kernels shall be faster for (default: '
    f'{BATCH})',
  )
  add(
    '--report',
    metavar='FILE.md',
    help='measure all choices instead; takes minutes',
  )
  parser.add_checkpoint()
  parser.add_data(
    'for --memory, --report and calibration: a prepared set, or raw files and '
    'folders of them (default: the training data)'
  )
  add(
    '--split',
    help='split of prepared data for --memory, --report, and --outliers '
    f'without --calibrate (default: {SPLIT})',
  )
  add(
    '--examples',
    type=int,
    default=EXAMPLES,
    metavar='N',
    help='most examples to score, evenly spread over the data '
    '(default: %(default)s)',
  )
  parser.add_on_bad_row()
  return parser


def check(flags: argparse.Namespace) -> None:
  """Checks that the flags ask for one thing."""
  asked = [n for n in ('tables', 'memory', 'report') if getattr(flags, n)]
  others = [n for n in ('layers', 'sparsity') if getattr(flags, n) is not None]
  if len(asked) > 1 or not (asked or others):
    raise InputError(
      'give one of --tables, --memory and --report, or --layers, or --sparsity'
      + (f', not {" and ".join(f"--{x}" for x in asked)}' if asked else '')
    )
  if others and flags.report:
    raise InputError(f'--report measures all layers: leave --{others[0]} out')
  _check_sparse(flags)
  calibrates = flags.calibrate is not None
  if flags.layers != 'int8' and (calibrates or flags.outliers):
    name = 'calibrate' if calibrates else 'outliers'
    raise InputError(f'--{name} is for --layers=int8')
  if flags.limits and not calibrates:
    raise InputError(f'--limits={flags.limits}: it is for --calibrate')
  if flags.outliers < 0:
    raise InputError(f'--outliers={flags.outliers}: expected 0 or more')
  if bool(flags.output) == bool(flags.report):
    raise InputError(
      '--report writes no model: leave --output out'
      if flags.report
      else f'--{(*asked, *others)[0]} writes a workdir: name it with '
      f'--output=DIR'
    )
  measures = flags.memory or flags.report
  if flags.split and not measures and (calibrates or not flags.outliers):
    where = f'; name it as --calibrate={flags.split}' if calibrates else ''
    raise InputError(
      f'--split={flags.split} has no effect: nothing is measured{where}'
    )
  if flags.data and not (measures or flags.outliers or calibrates):
    raise InputError('--data has no effect: nothing is measured or calibrated')
  if flags.memory:
    read_size('--memory', flags.memory)
  if flags.examples < 1:
    raise InputError(f'--examples={flags.examples}: expected 1 or more')
  if flags.report:
    if Path(flags.report).suffix != '.md':
      raise InputError(f'--report={flags.report}: expected a name in .md')
    for path in files_of(flags.report):
      files.check_writable(path, f'--report={flags.report}')


def _check_sparse(flags: argparse.Namespace) -> None:
  """Checks the flags of sparse layers."""
  share = flags.sparsity
  if share is None:
    for name in ('block', 'batch'):
      if getattr(flags, name) is not None and not flags.report:
        raise InputError(
          f'--{name}={getattr(flags, name)}: it is for --sparsity and --report'
        )
  elif not 0 <= share < 1:
    raise InputError(
      f'--sparsity={share:g}: expected a share from 0, less than 1, as in 0.8'
    )
  elif flags.layers == 'int8':
    raise InputError(
      f'--sparsity={share:g} beside --layers=int8: sparse layers are floats; '
      f'leave one of them out'
    )
  if share == 0 and flags.block is not None:
    raise InputError(
      f'--block={flags.block} has no effect: --sparsity=0 prunes nothing'
    )
  block_of(flags, BLOCK)
  if flags.batch is not None and flags.batch < 1:
    raise InputError(f'--batch={flags.batch}: expected 1 or more')


def block_of(flags: argparse.Namespace, default: str) -> Block:
  """The block that is asked for."""
  return read_block('--block', flags.block or default)


def files_of(report: str) -> tuple[Path, Path, Path]:
  """Table, picture, and JSON of a report."""
  path = Path(report)
  return path, path.with_suffix('.svg'), path.with_suffix('.json')
