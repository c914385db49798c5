#!/usr/bin/env bash
# TensorFlow Datasets: while one thread imports it, imports of other threads fail.
#
# Versions: tensorflow-datasets 4.9.10, etils 1.15.0, Python 3.11.
# Seen: TFDS declares modules that it imports later in blocks of etils'
#   `lazy_imports`, which puts its own function in the place of
#   `builtins.__import__`, for all threads. A `from m import name` that another
#   thread runs meanwhile gets a stand-in for a module `m.name`, whose first use
#   raises ModuleNotFoundError. JAX has such lines in functions, so a program that
#   is traced meanwhile fails with "No module named
#   'jax._src.state.types.TransformedRef'".
# Expected: imports of other threads are left alone.
# What to do: import tensorflow_datasets before the first thread is started.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tensorflow-datasets==4.9.10 etils==1.15.0

cd "$work"
cat > threads.py <<'PY'
import sys
import threading


def use():
  from fractions import Fraction

  return isinstance(1, Fraction)


def imports():
  import tensorflow_datasets


use()  # it is there
sys.setswitchinterval(1e-5)
thread = threading.Thread(target=imports)
thread.start()
while thread.is_alive():
  try:
    use()
  except ModuleNotFoundError as error:
    print(error)
    break
thread.join()
PY

# Threads meet by chance: in most of the processes.
for _ in 1 2 3 4 5 6 7 8; do
  "$work/venv/bin/python" threads.py 2>/dev/null || true
done | grep Fraction | sort -u | tee "$work/seen"

diff "$work/seen" - <<'SEEN'
No module named 'fractions.Fraction'; 'fractions' is not a package
SEEN
