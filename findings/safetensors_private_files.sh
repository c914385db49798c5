#!/usr/bin/env bash
# safetensors: `save_file` makes files that only their owner may read, whatever
# the umask is.
#
# Versions: safetensors 0.8.0, numpy 2.4.6, Python 3.11.
# Seen: under umask 022, numpy.save makes a file of mode 644 and
#   safetensors.numpy.save_file one of mode 600, in the same folder. A model that
#   one account exports and another one serves can then be read but for its
#   weights. Saving over a file of mode 644 makes it 600, too.
# Expected: the mode that the umask gives, as of any other file that is written.
# What to do: write the bytes that `safetensors.numpy.save` returns, or change
#   the mode afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6

(cd "$work" && umask 022 && venv/bin/python - <<'PY') | tee "$work/seen"
import os

import numpy
from safetensors.numpy import save, save_file

array = numpy.zeros(3, numpy.float32)


def mode(name):
  return f'{os.stat(name).st_mode & 0o777:o}'


numpy.save('array.npy', array)
save_file({'a': array}, 'array.safetensors')
with open('again.safetensors', 'wb') as file:
  file.write(save({'a': array}))
print('numpy.save', mode('array.npy'))
print('save_file', mode('array.safetensors'))
print('the bytes of save', mode('again.safetensors'))
save_file({'a': array}, 'again.safetensors')
print('save_file over them', mode('again.safetensors'))
PY

diff "$work/seen" - <<'SEEN'
numpy.save 644
save_file 600
the bytes of save 644
save_file over them 600
SEEN
