"""What a command prints that scores: lines for people, and a line of JSON."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dlrm_jax import files
from dlrm_jax.cluster import agreement


def add_json(parser: argparse.ArgumentParser) -> None:
  """Adds the flag --json; its value is None, '' (JSON alone) or a file."""
  parser.add_argument(
    '--json',
    nargs='?',
    const='',
    metavar='FILE',
    help='file to write the JSON to; without a name, only the JSON is printed',
  )


def check_json(file: str | None) -> None:
  """Raises an `InputError` if the file of --json could not be written later."""
  if file:
    files.check_writable(Path(file), f'--json={file}')


def print_lines(lines: Iterable[str], json: str | None) -> None:
  """Prints lines for people, unless --json asks for nothing but JSON."""
  if json != '':
    print(*lines, sep='\n', flush=True)


def print_json(result: Mapping[str, Any], file: str | None) -> None:
  """Prints the result as a line of JSON, and writes it to a file if given."""
  text = files.to_json(result)
  print(text)
  if file and agreement.first():
    files.write_text(Path(file), text + '\n')
