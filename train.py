"""Trains a recommender, or goes on training it; see `dlrm_jax/train.py`."""

from dlrm_jax import train

if __name__ == '__main__':
  train.run()
