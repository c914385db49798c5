r"""The results of `make bench` on several machines, side by side.

python -m benchmarks.machines docs/benchmarks/*.json

Writes a table of all comparisons to docs/benchmarks.md, between two lines of
that page: what we reached on each machine and how many times better than the
peer that is.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import number_text
from benchmarks.models import rewrite
from dlrm_jax import files
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.text import markdown_table

_PAGE = Path('docs/benchmarks.md')
_NOTE = (
  'Times better than the faster peer, and our own number before it. Targets '
  'that were missed are marked †; benchmarks in which the machine was too busy '
  'to be believed are marked ~.'
)


class Machine(NamedTuple):
  """What `make bench` wrote on a machine.

  Attributes:
    name: of the file.
    about: of the machine and what ran on it.
    rows: by what was measured.
    busy: what was measured while the machine was busy.
  """

  name: str
  about: Mapping[str, Any]
  rows: Mapping[str, Mapping[str, Any]]
  busy: frozenset[str]


def read(path: Path) -> Machine:
  """Reads a file of `make bench`.

  Raises:
    InputError: it is none.
  """
  try:
    found = files.read_json(path)
    about, busy = found['machine'], found['machine'].get('busy', [])
    rows = {
      row['what']: (name, row)
      for name, of_one in found['benchmarks'].items()
      for row in of_one
    }
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  except (ValueError, LookupError, TypeError, AttributeError):
    raise InputError(f'{path}: not what `make bench` writes') from None
  return Machine(
    path.stem,
    about,
    {what: row for what, (_, row) in rows.items()},
    frozenset(what for what, (name, _) in rows.items() if name in busy),
  )


def _cell(machine: Machine, what: str) -> str:
  """Our number, and the ratio beside a peer."""
  row = machine.rows.get(what)
  if row is None or row.get('ours') is None:
    return ''
  text = number_text(row['ours'])
  ratio, target = row.get('ratio'), row.get('target')
  if ratio is not None:
    missed = '†' if target is not None and ratio < target else ''
    text += f' (**{ratio:.2f}**{missed})'
  if row.get('at most') is not None and row['ours'] > row['at most']:
    text += ' †'
  return text + (' ~' if what in machine.busy else '')


def _about(machine: Machine) -> str:
  """A line on a machine."""
  about = machine.about
  peers = about.get('peers', {})
  versions = ', '.join(f'{name} {version}' for name, version in peers.items())
  return (
    f'* `{machine.name}`: {about["processor"]}; {about["date"]}, commit '
    f'{about["commit"]}; jax {about["jax"]}{versions and "; " + versions}'
  )


def tables(machines: Sequence[Machine]) -> Iterator[str]:
  """The lines of the table, and of what the machines are."""
  yield _NOTE
  yield ''
  yield from map(_about, machines)
  yield ''
  units = {
    what: str(row.get('unit') or '')
    for machine in machines
    for what, row in machine.rows.items()
  }
  header = ['what', *(f'`{machine.name}`' for machine in machines)]
  cells = [
    [f'{what}, {unit}', *(_cell(machine, what) for machine in machines)]
    for what, unit in units.items()
  ]
  yield from markdown_table(header, cells)
  yield ''


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Writes the table."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.machines',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('found', nargs='+', type=Path, metavar='FILE.JSON')
  parser.add_argument('--page', type=Path, default=_PAGE)
  flags = parser.parse_args(argv)
  machines = [read(path) for path in flags.found]
  rewrite(flags.page, '\n'.join(tables(machines)))
  print(f'{len(machines)} machines written to {flags.page}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
