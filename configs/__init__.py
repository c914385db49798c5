"""Configs of `train.py`: each a function that returns a ConfigDict."""
