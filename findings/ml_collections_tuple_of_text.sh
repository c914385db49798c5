#!/usr/bin/env bash
# ml_collections: --config.names=a,b sets one name, 'a,b'.
#
# Versions: ml_collections 1.1.0, absl-py 2.5.1, Python 3.11.
# Seen: a config with a tuple of texts and a tuple of numbers. On the command
#   line 3,4 becomes two numbers, and a,b one text with a comma in it.
# Expected: two texts, as for numbers, or an error. A list of features that is
#   given so is a list of one feature that does not exist.
# What to do: --config.names="('a','b')".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ml_collections==1.1.0 absl-py==2.5.1

cat >"$work/show.py" <<'PY'
from absl import app
from ml_collections import config_dict, config_flags

default = config_dict.ConfigDict({'names': ('x', 'y'), 'sizes': (1, 2)})
config = config_flags.DEFINE_config_dict('config', default)
app.run(lambda _: print(config.value.sizes, config.value.names))
PY
{
  "$work/venv/bin/python" "$work/show.py" --config.sizes=3,4 --config.names=a,b
  "$work/venv/bin/python" "$work/show.py" --config.names="('a','b')"
} | tee "$work/seen"

diff "$work/seen" - <<'SEEN'
(3, 4) ('a,b',)
(1, 2) ('a', 'b')
SEEN
