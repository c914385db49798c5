"""Functions of JAX as ONNX graphs, which onnxruntime runs."""

import importlib.util

NEEDED = 'onnx', 'onnxruntime'
"""Packages of the extra `onnx`."""


def missing() -> list[str]:
  """The packages that are not installed."""
  return [name for name in NEEDED if importlib.util.find_spec(name) is None]
