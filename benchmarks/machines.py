r"""The results of `make bench` on several machines, side by side.

python -m benchmarks.machines docs/benchmarks/*.json

Writes a table of all comparisons to docs/benchmarks.md, between two lines of
that page: what we reached on each machine, how many times better than the
peers that is, and the targets of `benchmarks.targets`.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import targets
from benchmarks.machine import number_text
from benchmarks.models import rewrite
from benchmarks.peers import BAGS, DLRM, OURS, TORCHREC
from dlrm_jax import files
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.text import markdown_table

PAGE = Path('docs/benchmarks.md')
_NOTE = (
  'Our own number, and behind it how many times better than the fastest peer '
  'that is, and than those with a target of their own. Missed targets are '
  'marked †; where the machine was too busy to be believed stands ~. dlrm is '
  f'{DLRM}, torchrec {TORCHREC}, EmbeddingBag {BAGS}, our float32 the same of '
  'ours in float32. FBGEMM looks rows of int8 and int4 up in one thread, we in '
  'all but where one is named.'
)


class Machine(NamedTuple):
  """What `make bench` wrote on a machine.

  Attributes:
    name: of the file.
    about: of the machine and what ran on it.
    rows: by what was measured.
    within: the benchmark of what was measured.
    busy: benchmarks that ran while the machine was busy.
  """

  name: str
  about: Mapping[str, Any]
  rows: Mapping[str, Mapping[str, Any]]
  within: Mapping[str, str]
  busy: frozenset[str]

  def is_busy(self, what: str) -> bool:
    """Whether it was while that was measured."""
    return self.within[what] in self.busy


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
      if row['unit'] and row[OURS]
    }
  except OSError as error:
    raise InputError(f'{path}: cannot be read: {error.strerror}') from None
  except (ValueError, LookupError, TypeError, AttributeError):
    raise InputError(f'{path}: not what `make bench` writes') from None
  return Machine(
    path.stem,
    about,
    {what: row for what, (_, row) in rows.items()},
    {what: name for what, (name, _) in rows.items()},
    frozenset(busy),
  )


def order(machines: Sequence[Machine]) -> list[str]:
  """All that was measured, as the machine with the most of it has it."""
  most_first = sorted(machines, key=lambda machine: -len(machine.rows))
  return [
    *dict.fromkeys(what for machine in most_first for what in machine.rows)
  ]


def _cell(machine: Machine, what: str) -> str:
  """Our number, and how many times better than others it is."""
  row = machine.rows.get(what)
  if row is None:
    return ''
  text = number_text(row[OURS])
  if targets.own_missed(row):
    text += targets.MISSED
  if found := targets.comparisons(row):
    text += f' ({", ".join(comparison.text() for comparison in found)})'
  return text + (' ~' if machine.is_busy(what) else '')


def _never_idle(machines: Sequence[Machine]) -> list[str]:
  """The benchmarks that only busy machines have run."""
  run = dict.fromkeys(
    x for machine in machines for x in machine.within.values()
  )
  idle = {
    x for machine in machines for x in {*machine.within.values()} - machine.busy
  }
  return [name for name in run if name not in idle]


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
  if never := _never_idle(machines):
    yield f'**No machine was idle for:** {", ".join(never)}.'
    yield ''
  names = order(machines)
  if left := targets.unmeasured(names):
    yield f'Targets of what is not in the table: {"; ".join(left)}.'
    yield ''
  yield from map(_about, machines)
  yield ''
  header = ['what', 'target', *(f'`{machine.name}`' for machine in machines)]
  cells = []
  for what in names:
    row = next(m.rows[what] for m in machines if what in m.rows)
    line = [f'{what}, {row["unit"]}', targets.aimed(row)]
    cells.append([*line, *(_cell(machine, what) for machine in machines)])
  yield from markdown_table(header, cells, words=2)
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
  parser.add_argument('--page', type=Path, default=PAGE)
  flags = parser.parse_args(argv)
  machines = [read(path) for path in flags.found]
  rewrite(flags.page, '\n'.join(tables(machines)))
  print(f'{len(machines)} machines written to {flags.page}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
