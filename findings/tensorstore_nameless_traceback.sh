#!/usr/bin/env bash
# TensorStore: a future that ends after the event loop which awaited it prints a
# traceback that names neither TensorStore nor the future.
#
# Versions: tensorstore 0.1.86, numpy 2.4.6, Python 3.11.
# Seen: an asyncio task awaits a future, and the loop is closed. When the future
#   gets its result, sys.unraisablehook is called with RuntimeError "Event loop
#   is closed" and with no object, so that Python prints a bare traceback of
#   asyncio on standard error, without "Exception ignored in". Nobody awaits the
#   result, and nothing went wrong. Orbax closes such loops at the first error of
#   a save, so a full disk is reported beside dozens of these.
# Expected: no output, since nobody waits for the result; or at least the name of
#   what was ignored, as Python gives it for destructors and callbacks.
# What to do: pass this one error over in sys.unraisablehook while saving.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tensorstore==0.1.86 numpy==2.4.6

"$work/venv/bin/python" - <<'PY' 2>/dev/null | tee "$work/seen"
import asyncio
import sys

import tensorstore

heard = []
sys.unraisablehook = heard.append
promise, future = tensorstore.Promise.new()


async def read():
  await future


loop = asyncio.new_event_loop()
tasks = [loop.create_task(read())]
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
promise.set_result(1)
for event in heard:
  print(repr(event.exc_value), event.err_msg, event.object)
PY

diff "$work/seen" - <<'SEEN'
RuntimeError('Event loop is closed') None None
SEEN
