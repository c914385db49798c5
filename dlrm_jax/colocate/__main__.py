r"""Measures what models on one machine cost each other.

  python -m dlrm_jax.colocate --models=rmc1,rmc2,rmc3 --copies=1,2,4 \
    --sla_ms=100,400,100 --scale=0.25 --output=colocation.md
  python -m dlrm_jax.colocate --models=ctr=models/ctr --copies=1,2 \
    --sla_ms=20 --sizes=lognormal --cores=0,1
  python -m dlrm_jax.colocate --models=rmc1 --copies=1,2 --rate=50

Starts engines, processes with one model each, on given cores. Each draws its
own queries, with Poisson arrivals, and answers them in order; there are no
sockets. Of 1, 2, ... engines at once, the first is measured while the others
are under load: the time of a batch, split in lookup and layers; the highest
rate that keeps a percentile of latencies below --sla_ms; and latencies at a
rate that all keep. The same command goes on where it was interrupted, and
repeats no model that is in the files of --output, if machine, libraries and
the model's folder are the same.

MODEL is rmc1, rmc2 or rmc3 (configs/rmc.py), with drawn values and the storages
of --storage, or NAME=DIR, a workdir or an export, with its own.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from dlrm_jax import files
from dlrm_jax.colocate import report, request, results, study
from dlrm_jax.colocate.models import bytes_of
from dlrm_jax.config.parser import Parser
from dlrm_jax.errors import InputError, exit_cleanly
from dlrm_jax.text import duration, human


def _parser() -> Parser:
  parser = Parser(prog='python -m dlrm_jax.colocate', description=__doc__)
  request.add_flags(parser)
  return parser


def _output(name: str | None) -> Path | None:
  """The page to write."""
  if name is None:
    return None
  output = Path(name)
  if output.suffix != '.md':
    raise InputError(f'--output={name}: expected a name that ends in .md')
  files.check_writable(output, f'--output={name}')
  return output


def _plan(measured: study.Study) -> Iterator[str]:
  """Lines about the measurements, before the first one."""
  wanted = measured.wanted
  yield 'models    ' + '; '.join(
    f'{spec} ({human(measured.bytes[spec].kept)})' for spec in wanted.specs
  )
  copies = ', '.join(map(str, wanted.copies))
  cores = study.cores_text(wanted.cores)
  yield f'engines   {copies}, on the cores {cores} in turn'
  yield (
    f'queries   sizes {wanted.sizes.name}, ids of exponent {wanted.exponent:g}'
  )
  if wanted.rate is None:
    targets = ', '.join(
      f'{name} {1e3 * bound:g} ms' for name, bound in wanted.bounds.items()
    )
    yield f'target    p{wanted.percent:g}: {targets}'
  else:
    yield f'rate      {wanted.rate:g} queries/s of each engine'
  left = measured.left
  if known := len(wanted.specs) - len(left.specs):
    yield f'measured  {known} of {len(wanted.specs)} models'
  seconds = study.duration_of(left, measured.bytes)
  yield f'time      about {duration(seconds)}'


def _line(point: study.Point, percent: float) -> str:
  """What is printed of a point."""
  times, parts = point.times, []
  if point.rate is not None:
    parts.append(f'{point.rate:.4g} queries/s each keep p{percent:g}')
  parts += [
    f'a batch of {times.rows} takes {1e3 * times.whole.wall:.3g} ms',
    f'CPU of lookups {1e3 * times.lookup.cpu:.3g} ms',
    f'of layers {1e3 * times.layers.cpu:.3g} ms',
  ]
  engines = study.engines_text(point.engines)
  return f'{point.spec}, {engines}: {", ".join(parts)}'


def _measure(measured: study.Study, output: Path | None) -> study.Study:
  """Measures all points, prints each, and writes after each."""
  wanted = measured.wanted
  left = measured.left
  with tqdm(
    desc='measured',
    total=study.steps_of(left),
    mininterval=0.1 if sys.stderr.isatty() else 30,
    delay=1,
  ) as bar:

    def say(step: str) -> None:
      bar.set_postfix_str(step, refresh=False)
      bar.update()

    for spec in wanted.specs:
      if measured.is_complete(spec):
        continue
      known = 0
      for points in study.measure(wanted, spec, say):
        for point in points[known:]:
          bar.write(_line(point, wanted.percent), file=sys.stdout)
        known = len(points)
        measured = measured._replace(
          points={**measured.points, spec: tuple(points)}
        )
        if output:
          report.write(measured, output)
  return measured


@exit_cleanly
def main(argv: Sequence[str]) -> None:
  """Says what it will do, measures, and writes or prints the page."""
  import jax

  flags = _parser().parse_args(argv)
  jax.config.update('jax_platforms', 'cpu')  # also in the engines
  wanted = request.wanted_of(vars(flags))
  output = _output(flags.output)
  sizes = {spec: bytes_of(spec) for spec in wanted.specs}
  study.check_room(wanted, sizes)
  known = results.read(wanted, output) if output else {}
  measured = study.Study(wanted, sizes, known)
  print(*_plan(measured), sep='\n', flush=True)
  start = time.monotonic()
  measured = _measure(measured, output)
  print(f'took {duration(time.monotonic() - start)}')
  if output:
    print(f'see {output}, {output.stem}.svg and {output.stem}.json')
  else:
    print(*report.sections(measured), sep='\n')


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
