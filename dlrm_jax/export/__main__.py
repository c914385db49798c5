r"""Writes a trained model as one folder that scores without its workdir.

  python -m dlrm_jax.export --workdir=runs/kaggle --output=models/kaggle

The folder has the tables (mapped, not read, when it is loaded), the layers, the
vocabularies and the network as StableHLO for CPUs, GPUs and TPUs.
`dlrm_jax.load('models/kaggle')` loads it; docs/export.md loads it with JAX and
NumPy alone. With --format=onnx the folder has `network.onnx`, too, for
onnxruntime: docs/onnx.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax import files
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import exit_cleanly


def _parser() -> argparse.ArgumentParser:
  parser = Parser(prog='python -m dlrm_jax.export', description=__doc__)
  parser.add_required('--workdir', 'DIR', 'folder of the training run')
  parser.add_required('--output', 'DIR', 'folder to write; must not exist')
  parser.add_checkpoint()
  parser.add_argument(
    '--format',
    choices=('stablehlo', 'onnx'),
    default='stablehlo',
    help='onnx: the folder has the network for onnxruntime, too (default: '
    'stablehlo)',
  )
  return parser


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Exports a checkpoint."""
  arguments = _parser().parse_args(argv)
  output = Path(arguments.output)
  files.check_new(output, f'--output={output}')
  onnx = arguments.format == 'onnx'
  if onnx:
    from dlrm_jax.export.onnx_network import check_installed

    check_installed()
  from dlrm_jax.build.chosen import choose
  from dlrm_jax.configs import default
  from dlrm_jax.export.write import write_export
  from dlrm_jax.text import human

  defaults = default.get_config().to_dict()
  chosen = choose(Path(arguments.workdir), arguments.checkpoint, defaults)
  stacks = chosen.run.task.collection.layout.stacks.values()
  size = sum(x.rows * x.storage.row_bytes(x.dim) for x in stacks)
  print(
    f'{chosen.folder}, checkpoint of step {chosen.step:,}: tables of '
    f'{human(size)} -> {output}',
    flush=True,
  )
  write_export(chosen, output, onnx=onnx)
  print(f'{output}: load it with dlrm_jax.load({str(output)!r})')


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
