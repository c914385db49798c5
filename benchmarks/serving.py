"""The side of a contender: says that it is ready, measures when told to.

Contenders of other libraries import this, too: nothing of ours is here.
"""

import json
import sys
from collections.abc import Callable, Mapping

READY = 'ready'


def serve(measure: Callable[[], Mapping[str, float]]) -> None:
  """Answers each line of the input with one measurement, as a JSON line."""
  print(READY, flush=True)
  for _ in sys.stdin:
    print(json.dumps(measure()), flush=True)
