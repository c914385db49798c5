"""Forward passes in numpy: what the tests of all models are made of."""

import jax
import numpy as np

BATCH, FEATURES, DIM = 5, 3, 4


def inputs(dense=2, **roles):
  """Dense features f32[B, N] and vectors by role, from (features, width)."""
  random = np.random.default_rng(0)
  vectors = {
    role: random.normal(size=(BATCH, *shape)).astype(np.float32)
    for role, shape in roles.items()
  }
  return random.normal(size=(BATCH, dense)).astype(np.float32), vectors


def outputs(model, dense, vectors):
  """(parameters as numpy arrays, logits): all parameters are random.

  Args:
    model: a linen module.
    dense: f32[B, N].
    vectors: by role.
  """
  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda: model.init(key, dense, vectors)['params'])
  random = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: random.normal(size=x.shape).astype(np.float32) / 2, shapes
  )
  return params, np.asarray(model.apply({'params': params}, dense, vectors))


def affine(layer, x):
  return x @ layer['kernel'] + layer['bias']


def mlp(layers, x, hidden):
  """Layers dense_0, dense_1, ... with ReLU between, and after if hidden."""
  for i in range(len(layers)):
    x = affine(layers[f'dense_{i}'], x)
    if hidden or i < len(layers) - 1:
      x = np.maximum(x, 0)
  return x


def joined(params, dense, vectors):
  """The output of the bottom MLP, then the vectors, side by side."""
  flat = vectors.reshape(len(vectors), -1)
  if not dense.shape[1]:
    return flat
  return np.concatenate([mlp(params['bottom'], dense, True), flat], 1)


def linear(layer, dense, weights):
  result = weights.sum(1) + layer['bias']
  return result + dense @ layer['kernel'] if dense.shape[1] else result


def pair_products(vectors):
  """Sum of the products of all pairs of vectors, f32[B, 1], by two loops."""
  count = vectors.shape[1]
  return sum(
    (vectors[:, i] * vectors[:, j]).sum(1, keepdims=True)
    for i in range(count)
    for j in range(i)
  )


def sigmoid(x):
  return 1 / (1 + np.exp(-x))
