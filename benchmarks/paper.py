"""What a TPU allows at most, for every config: a table in docs/plans.md.

  python -m benchmarks.paper

Each config's step is compiled for one v5e chip and for eight, by `python -m
dlrm_jax.plan --compile`; no chip is needed. Takes 20 minutes.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.models import replaced
from dlrm_jax.text import brief, human, markdown_table

PAGE = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'plans.md'
SLICES = {'v5e:1x1': 1, 'v5e:2x4': 8}
_OF_CRITEO = 'best branches lr fm wide_deep deepfm dcn'
_OF_FRAPPE = 'deepfm dcn fm lr plain sparse best branches'
CONFIGS = (
  'criteo_kaggle',
  *(f'criteo_kaggle:{variant}' for variant in _OF_CRITEO.split()),
  'criteo_terabyte',
  *('criteo_mlperf', 'criteo_mlperf:multihot', 'criteo_mlperf:dcnv2'),
  'frappe',
  *(f'frappe:{variant}' for variant in _OF_FRAPPE.split()),
  *('ncf', 'ncf:gmf', 'ncf:mlp', 'ncf:neumf', 'ncf:pretrained'),
  *('multitask', 'multitask:shared_bottom', 'multitask:mmoe'),
  *('rmc', 'rmc:rmc2', 'rmc:rmc3', 'synthetic'),
  *('notebook:compressed_full', 'notebook:synthetic_full'),
  *('notebook:movielens_full', 'notebook:criteo_full'),
)
"""Each config once: `criteo_mlperf:onehot`, for example, is `criteo_mlperf`."""


def _planned(config: str, topology: str, chips: int) -> dict[str, Any]:
  """The numbers of a plan; none where it cannot be made."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'plan.json'
    command = [
      *(sys.executable, '-m', 'dlrm_jax.plan', f'--config={config}'),
      *(f'--compile={topology}', f'--devices={chips}', '--memory=16GB'),
      f'--json={path}',
    ]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return json.loads(path.read_text())


def _rows() -> Iterator[list[str]]:
  for config in CONFIGS:
    for topology, chips in SLICES.items():
      plan = _planned(config, topology, chips)
      step = plan['compiled']
      first = [f'`{config}`', topology, f'{plan["batch"]:,}']
      if not step['fits']:
        wanted = f'{human(step["wanted"])} wanted' if step['wanted'] else ''
        row = [*first, f'does not fit {wanted}', *[''] * 6]
      else:
        paper = step['on_paper']
        rate = float(f'{paper["examples_per_second"]:.3g}')
        row = [
          *first,
          human(step['memory']['total']),
          f'{step["flops"] / 1e9:.3g}',
          human(step['memory_bytes']),
          *(brief(paper[part]) for part in ('products', 'memory', 'exchange')),
          f'{rate:,.0f}',
        ]
      print('|', ' | '.join(row), '|', flush=True)
      yield row


def main() -> None:
  """Compiles, and writes the table."""
  head = (
    *('config', 'slice', 'batch', 'memory', 'GFLOP', 'bytes moved'),
    *('products', 'memory', 'exchange', 'examples/s at most'),
  )
  table = markdown_table(head, list(_rows()), words=2)
  PAGE.write_text(replaced(PAGE.read_text(), '\n'.join(table), PAGE))


if __name__ == '__main__':
  main()
