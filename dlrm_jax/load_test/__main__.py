r"""Puts a load on a server of models, and says what it answers, and how fast.

  python -m dlrm_jax.load_test --url=grpc://localhost:8001 --model=ctr \
    --concurrency=1,4,16 --batch=64
  python -m dlrm_jax.load_test --url=http://localhost:8000 --model=ctr \
    --rate=200 --data=rows.parquet
  python -m dlrm_jax.load_test --url=grpc://localhost:8001 --model=ctr \
    --scenario=server --sla_ms=60

The server may be any of the Open Inference Protocol, such as
`python -m dlrm_jax.serve` or Triton. The table has the columns of
perf_analyzer: "client send" lasts from the moment at which a request is due
until the client has to wait, "client recv" is decoding and checking, the stages
of the server are means of its own statistics, and the network is the rest.

Every answer must have the outputs of the model's metadata, finite and of the
right shapes, and those that it had before for the same rows. Refusals (429,
RESOURCE_EXHAUSTED) are counted apart. The exit status is 1 if a request failed
in any other way.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax import files
from dlrm_jax.errors import exit_cleanly
from dlrm_jax.load_test import flags as read
from dlrm_jax.text import duration


@exit_cleanly
def main(argv: Sequence[str]) -> int:
  """Tests, prints the table, and writes the numbers."""
  flags = read.parser_of(__doc__).parse_args(argv)
  wanted = read.wanted_of(flags)
  if flags.json:
    files.check_writable(Path(flags.json), f'--json={flags.json}')
  read.check_installed()
  from dlrm_jax.load_test import loads, summary

  print(
    f'{wanted.url}, model {wanted.model}: rows of a request '
    f'{wanted.sizes.name}, {duration(wanted.seconds)} a load',
    flush=True,
  )
  found = asyncio.run(loads.run(wanted, lambda load: print(load, flush=True)))
  print(*summary.lines_of(found.rows), sep='\n')
  if found.result:
    print(found.result)
  if flags.json:
    numbers = {
      'url': wanted.url,
      'model': wanted.model,
      'scenario': wanted.scenario,
      'rows_of_request': wanted.sizes.name,
      'seed': wanted.seed,
      'loads': list(map(summary.as_json, found.rows)),
      'result': found.result,
      'kept_rate': found.rate,
    }
    files.write_json(Path(flags.json), numbers)
  return int(any(row.faults for row in found.rows))


def run() -> int:
  """The command."""
  return main(sys.argv[1:])


if __name__ == '__main__':
  sys.exit(run())
