#!/usr/bin/env bash
# scikit-learn: svmlight files that it writes are read back a column off.
#
# Versions: scikit-learn 1.9.1, Python 3.11.
# Seen: dump_svmlight_file and load_svmlight_file, both with their defaults. Of
#   a matrix whose column 0 is empty all features come back one column to the
#   left; with n_features given, too, so that no shape tells.
# Expected: the same matrix. The documentation of zero_based='auto' says that
#   it should always be safe without offset and length, but it takes a file
#   without a column 0 for one that counts from 1, and dump counts from 0.
#   A training and a test file can so differ in what their columns mean.
# What to do: load_svmlight_file(..., zero_based=True).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet scikit-learn==1.9.1

"$work/venv/bin/python" - "$work/log.svm" <<'PY' | tee "$work/seen"
import sys

import numpy as np
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

written = np.array([[0, 1, 2], [0, 3, 0]])
dump_svmlight_file(written, [0, 1], sys.argv[1])
auto, _ = load_svmlight_file(sys.argv[1], n_features=3)
told, _ = load_svmlight_file(sys.argv[1], n_features=3, zero_based=True)
print('written  ', written.tolist())
print('read back', auto.toarray().astype(int).tolist())
print('told     ', told.toarray().astype(int).tolist())
PY

diff "$work/seen" - <<'SEEN'
written   [[0, 1, 2], [0, 3, 0]]
read back [[1, 2, 0], [3, 0, 0]]
told      [[0, 1, 2], [0, 3, 0]]
SEEN
