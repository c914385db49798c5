"""Says whether the kernels in C are in use, and why not.

python -m dlrm_jax.native
"""

import argparse
import sys

import jax

from dlrm_jax.errors import exit_cleanly
from dlrm_jax.native import library


@exit_cleanly
def main(argv: list[str]) -> int:
  """Prints one line; status 1 where they are not in use."""
  argparse.ArgumentParser(
    prog='python -m dlrm_jax.native',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  ).parse_args(argv)
  jax.config.update('jax_platforms', 'cpu')
  path, why_not = library()
  print(f'not in use: {why_not}' if why_not else f'in use: {path}')
  return int(bool(why_not))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
