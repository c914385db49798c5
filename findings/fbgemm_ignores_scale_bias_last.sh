#!/usr/bin/env bash
# FBGEMM: on CPUs, rows of 4 bits whose scale and bias stand in front are read
# as if they stood behind.
#
# Versions: fbgemm-gpu-cpu 1.8.0, torch 2.13.0, numpy 2.4.6, Python 3.11.
# Seen: FusedNBitRowwiseQuantizedSBHalfToFloatOrHalf takes scale_bias_last, and
#   gives the same numbers for False as for True: codes are read as scale and
#   bias, and the other way round. Nothing is said.
#   Fused8BitRowwiseQuantizedToFloatOrHalf obeys the same argument.
# Expected: with scale_bias_last=False the values of such rows, which FBGEMM's
#   own tables for inference have, or an error.
# What to do: move the first four bytes of each row to its end before.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
  fbgemm-gpu-cpu==1.8.0 torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY' | tee "$work/seen"
import fbgemm_gpu
import torch

fbgemm = torch.ops.fbgemm
values = torch.linspace(-1, 1, 24).reshape(3, 8)


def moved(rows, size):
  """Rows with their last bytes, scale and bias, in front."""
  return torch.cat([rows[:, -size:], rows[:, :-size]], 1).contiguous()


def same(a, b):
  """Whether all bits are, those of NaN included."""
  return torch.equal(a.view(torch.int32), b.view(torch.int32))


def report(words, decode, behind, front):
  first, last = decode(front, False), decode(front, True)
  print(words, 'False is read right:', same(first, decode(behind, True)))
  print(words, 'False is read as True:', same(first, last))


def decode4(rows, last):
  return fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloatOrHalf(rows, 4, 0, last)


def decode8(rows, last):
  return fbgemm.Fused8BitRowwiseQuantizedToFloatOrHalf(rows, 0, last)


rows = fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(values, 4)
report('4 bits', decode4, rows, moved(rows, 4))
rows = fbgemm.FloatToFused8BitRowwiseQuantized(values)
report('8 bits', decode8, rows, moved(rows, 8))
PY

diff "$work/seen" - <<'SEEN'
4 bits False is read right: False
4 bits False is read as True: True
8 bits False is read right: True
8 bits False is read as True: False
SEEN
