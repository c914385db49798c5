"""Trains a recommender, or continues a run; see `dlrm_jax/train.py`."""

import os
import signal
import sys

# Before training nothing has to be saved: Ctrl-C ends the process at once, even
# during an import.
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
  signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from dlrm_jax.train import run

if __name__ == '__main__':
  sys.exit(run())
