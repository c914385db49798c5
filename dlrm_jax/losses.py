"""Losses of single examples, from logits.

Float32 whatever comes in: a model may compute in bfloat16, its loss may not.
"""

import jax
import jax.numpy as jnp
import optax


def binary_cross_entropy(
  logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike
) -> jax.Array:
  """Log-loss in nats, any shape; stable for logits of any size.

  >>> print(binary_cross_entropy(jnp.array([0.0, -200.0]), jnp.ones(2)))
  [  0.6931472 200.       ]
  """
  return optax.sigmoid_binary_cross_entropy(
    jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32)
  )


def squared_error(
  logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike
) -> jax.Array:
  """Squared error of the probability, any shape: Brier's score.

  >>> print(squared_error(jnp.array([0.0, 200.0]), jnp.ones(2)))
  [0.25 0.  ]
  """
  probability = jax.nn.sigmoid(jnp.asarray(logits, jnp.float32))
  return jnp.square(probability - jnp.asarray(labels, jnp.float32))
