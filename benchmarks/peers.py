"""The peers that are there, and rows that set us beside them.

Peers are facebookresearch/dlrm, from a path that the user gives, and torchrec
with FBGEMM, as installed for a Python that the user gives. Nothing of either
is needed: what is missing is said, and its column stays empty.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MODULE = 'dlrm_s_pytorch'
OURS, DLRM, TORCHREC = 'ours', 'facebookresearch/dlrm', 'torchrec + FBGEMM'
BAGS, FUXICTR = 'torch.nn.EmbeddingBag', 'FuxiCTR'
NUMPY, TORCH = 'NumPy', 'PyTorch (FBGEMM)'
FLOAT32 = 'ours, float32'
"""No peer: what we do in float32, beside which int8 and int4 stand, too."""

_VERSIONS = """
import importlib.metadata, json
found = [(d.name, d.version) for d in importlib.metadata.distributions()]
print(json.dumps([
  x for x in found if x[0].startswith(('torch', 'fbgemm'))
]))
"""


class Peers(NamedTuple):
  """What there is to compare with.

  Attributes:
    python: that has PyTorch, or '' where none has.
    dlrm: a checkout of facebookresearch/dlrm, or ''.
    torchrec: whether that Python has torchrec and FBGEMM.
  """

  python: str
  dlrm: str
  torchrec: bool

  def commands(self, module: str) -> dict[str, list[str]]:
    """Contenders by name: `python -m benchmarks.MODULE`, with --dlrm=PATH."""
    command = [self.python, '-m', f'benchmarks.{module}']
    found = {}
    if self.python and self.dlrm:
      found[DLRM] = [*command, f'--dlrm={self.dlrm}']
    if self.python and self.torchrec:
      found[TORCHREC] = command
    return found


def add_flags(parser: argparse.ArgumentParser, rounds: int | None = 7) -> None:
  """--peer_python, --dlrm, --rounds: the same for every benchmark."""
  parser.add_argument(
    '--peer_python',
    default=sys.executable,
    help='a Python with torch, torchrec, fbgemm-gpu-cpu; default: this one',
  )
  parser.add_argument(
    '--dlrm', default='', help='a checkout of facebookresearch/dlrm'
  )
  parser.add_argument(
    '--rounds',
    type=_positive,
    default=rounds,
    help='measurements of each contender',
  )


def _positive(text: str) -> int:
  if int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text}: expected 1 or more')
  return int(text)


def find(arguments: argparse.Namespace) -> Peers:
  """The peers that the flags name; says on stderr which are not there.

  Raises:
    SystemExit: a flag names what is not there.
  """
  python, dlrm = shutil.which(arguments.peer_python), arguments.dlrm
  if python is None:
    sys.exit(f'--peer_python={arguments.peer_python}: no such program')
  if dlrm and not (Path(dlrm) / f'{_MODULE}.py').is_file():
    sys.exit(f'--dlrm={dlrm}: no {_MODULE}.py there')
  if not _has(python, 'torch'):
    say(
      f'no peers: {arguments.peer_python} has no torch; give '
      '--peer_python=PYTHON'
    )
    return Peers('', '', False)
  # Some peers run in folders of their own. A link stays: to a virtual Python.
  python = os.path.abspath(python)
  if dlrm:
    dlrm = os.path.abspath(dlrm)
    if not _has(python, f'sys; sys.path.insert(0, {dlrm!r}); import {_MODULE}'):
      say(f'no {DLRM}: {python} lacks what its {_MODULE} imports')
      dlrm = ''
  else:
    say(f'no {DLRM}: give --dlrm=PATH of a checkout')
    dlrm = ''
  torchrec = _has(python, 'torchrec, fbgemm_gpu')
  if not torchrec:
    say(f'no {TORCHREC}: {python} lacks torchrec or fbgemm-gpu-cpu')
  return Peers(python, dlrm, torchrec)


def versions(found: Peers) -> dict[str, str]:
  """Of PyTorch's packages, and the commit of facebookresearch/dlrm."""
  said = {}
  if found.python:
    said = dict(json.loads(_output([found.python, '-c', _VERSIONS])))
  if found.dlrm:
    commit = _output(['git', '-C', found.dlrm, 'rev-parse', '--short', 'HEAD'])
    said[DLRM] = commit.strip() or 'unknown'
  return said


def _output(command: Sequence[str]) -> str:
  return subprocess.run(
    command, capture_output=True, text=True, check=False
  ).stdout


def row(what: str, unit: str, values: Mapping[str, Any]) -> dict[str, Any]:
  """One line of what was measured; `targets` has what was aimed at.

  Args:
    what: was measured, in words.
    unit: of the values; more is better where it ends in `/s`.
    values: medians by contender, `OURS` among them, and further columns.
  """
  return {'what': what, 'unit': unit, **values}


def _has(python: str, modules: str) -> bool:
  found = subprocess.run(
    [python, '-c', f'import {modules}'], capture_output=True, check=False
  )
  return found.returncode == 0


def say(line: str) -> None:
  """Says what is missing."""
  print(line, file=sys.stderr, flush=True)
