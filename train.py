"""Trains a recommender, or goes on training it; see `dlrm_jax/train.py`."""

import os
import signal
import sys

# Nothing is to be saved yet: Ctrl-C ends the process at once, in an import too.
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
  signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from dlrm_jax import train

if __name__ == '__main__':
  sys.exit(train.run())
