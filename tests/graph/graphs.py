"""What tests of graphs share: functions of a batch, run by onnxruntime."""

import jax
import numpy as np

from dlrm_jax.graph.builder import Builder
from dlrm_jax.graph.trace import model_of


def model(function, constants, batch, builder=None):
  """The checked graph of (constants, batch by name) -> an array."""
  import onnx

  inputs = {k: (x.shape[1:], x.dtype) for k, x in batch.items()}
  builder = builder or Builder()
  made = model_of(function, constants, inputs, 'result', builder)
  onnx.checker.check_model(made, full_check=True)
  return made


def session(made, optimised=None):
  """A session; `optimised` is a file for the graph that is run."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  if optimised is not None:
    options.optimized_model_filepath = str(optimised)
  return onnxruntime.InferenceSession(
    made.SerializeToString(), options, providers=['CPUExecutionProvider']
  )


def run(made, batch):
  """The result of a graph."""
  opened = session(made)
  names = [x.name for x in opened.get_inputs()]
  (found,) = opened.run(None, {name: batch[name] for name in names})
  return found


def operators(made, folder):
  """The operators that onnxruntime makes of a graph."""
  import onnx

  path = folder / 'optimised.onnx'
  session(made, path)
  return [node.op_type for node in onnx.load(path).graph.node]


def assert_same(function, constants, batch, **tolerance):
  """A graph and JAX give the same."""
  found = run(model(function, constants, batch), batch)
  wanted = jax.jit(function)(constants, batch)
  assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
  np.testing.assert_allclose(found, wanted, **{'atol': 1e-6, **tolerance})
