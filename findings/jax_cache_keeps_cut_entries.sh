#!/usr/bin/env bash
# JAX: an entry of the compilation cache that was cut, by a full disk or because
# the process was killed, is never written again.
#
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11.
# Seen: entries are written under their final names. Of one that lacks its end,
#   every later process warns ("Error reading persistent compilation cache entry"),
#   compiles the program, and leaves the file as it is, because there is one: the
#   program costs its compilation and a warning at every start.
# Expected: entries that are renamed when they are complete, or replaced where they
#   cannot be read.
# What to do: remove the file that the warning names; or unpack the newest entries
#   at the start (zlib, or zstandard where it is installed) and remove those that
#   cannot be unpacked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2

cd "$work"
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$work/cache"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
cat > compile.py <<'PY'
import sys
import warnings

import jax

with warnings.catch_warnings(record=True) as caught:
  warnings.simplefilter('always')
  jax.jit(lambda x: x * x + 1).lower(3.0).compile()
errors = [w for w in caught if 'Error reading persistent' in str(w.message)]
print(sys.argv[1], 'warnings:', len(errors))
PY

{
  "$work/venv/bin/python" compile.py first
  "$work/venv/bin/python" compile.py second
  entry=$(ls "$work"/cache/jit*-cache)
  size=$(stat -c %s "$entry")
  truncate -s $((size / 2)) "$entry"
  "$work/venv/bin/python" compile.py 'third, cut'
  "$work/venv/bin/python" compile.py 'fourth'
  test "$(stat -c %s "$entry")" = $((size / 2)) && echo 'still cut'
} 2>/dev/null | tee "$work/seen"

diff "$work/seen" - <<'SEEN'
first warnings: 0
second warnings: 0
third, cut warnings: 1
fourth warnings: 1
still cut
SEEN
