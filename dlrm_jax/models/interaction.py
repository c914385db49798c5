"""Interactions of the vectors of a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def pairs(count: int, self_interaction: bool) -> tuple[np.ndarray, np.ndarray]:
  """Indices (i, j) of the pairs, j < i (or j <= i), row by row.

  The order of facebookresearch/dlrm; a checkpoint's first top layer depends
  on it.

  >>> [x.tolist() for x in pairs(3, False)]
  [[1, 2, 2], [0, 0, 1]]
  """
  i, j = np.tril_indices(count, 0 if self_interaction else -1)
  return i, j


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def dot_interaction(
  vectors: jax.Array,
  self_interaction: bool = False,
  dtype: DTypeLike = jnp.float32,
) -> jax.Array:
  """Inner products of all pairs of vectors of an example.

  Source: Naumov et al., arXiv 1906.00091, section 2.1.4.

  Args:
    vectors: f32[B, n, D].
    self_interaction: whether to include the product of each vector with
      itself.
    dtype: dtype of the operands of the products; sums are float32.

  Returns:
    f32[B, P], P = n (n - 1) / 2 or n (n + 1) / 2, ordered as in `pairs`.

  >>> dot_interaction(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
  [[11.0]]
  """
  count = vectors.shape[1]
  i, j = pairs(count, self_interaction)
  x = vectors.astype(dtype)
  products = jnp.einsum('bid,bjd->bij', x, x, preferred_element_type='float32')
  return products.reshape(-1, count * count)[:, i * count + j]


def _forward(
  vectors: jax.Array, self_interaction: bool, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
  return dot_interaction(vectors, self_interaction, dtype), vectors


def _backward(
  self_interaction: bool,
  dtype: DTypeLike,
  vectors: jax.Array,
  grads: jax.Array,
) -> tuple[jax.Array]:
  """The gradient of the vectors, by a gather and a matrix product.

  With T the vectors and S the symmetric matrix of the gradients of the pairs,
  its diagonal doubled (since d(x.x) = 2 x.dx), the gradient is S T. Without
  it JAX would scatter.
  """
  count = vectors.shape[1]
  i, j = pairs(count, self_interaction)
  pair = np.full((count, count), len(i))  # the index of a padded zero
  pair[i, j] = pair[j, i] = np.arange(len(i))
  grads = jnp.pad(grads, ((0, 0), (0, 1)))
  symmetric = grads[:, pair.reshape(-1)].reshape(-1, count, count)
  if self_interaction:
    symmetric = symmetric * (1 + np.eye(count, dtype=np.float32))[None]
  result = jnp.einsum(
    'bij,bjd->bid',
    symmetric.astype(dtype),
    vectors.astype(dtype),
    preferred_element_type='float32',
  )
  return (result,)


dot_interaction.defvjp(_forward, _backward)


def cat_interaction(vectors: jax.Array) -> jax.Array:
  """No interaction: concatenates vectors f32[B, n, D] to f32[B, n D].

  >>> cat_interaction(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
  [[1.0, 2.0, 3.0, 4.0]]
  """
  return vectors.reshape(vectors.shape[0], -1)


def sum_of_products(vectors: jax.Array) -> jax.Array:
  """Sum of the inner products of all pairs of vectors of an example.

  Source: Rendle, "Factorization Machines", ICDM 2010, lemma 3.1.

  Args:
    vectors: f32[B, n, D].

  Returns:
    f32[B, 1].

  >>> sum_of_products(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
  [[11.0]]
  """
  square = jnp.square(jnp.sum(vectors, 1))
  squares = jnp.sum(jnp.square(vectors), 1)
  return 0.5 * jnp.sum(square - squares, 1, keepdims=True)
