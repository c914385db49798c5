"""Models of several labels: shared bottom, mixture of experts, and ESMM.

With x = [bottom(x), v_1, ..., v_F], the output of the bottom MLP and the
vectors of the ids, and t the number of a label:

    shared bottom:  logit_t = tower_t(shared(x))
    MMoE:           logit_t = tower_t(sum_e g_te(x) expert_e(x)),
                    g_t(x) = softmax(G_t x + c_t)
    ESMM:           p(click) = s(click(x)),
                    p(click and conversion) = s(click(x)) s(conversion(x))

with the logistic function s. The towers, and the MLPs of ESMM, have the widths
`top`.

Sources: Caruana, "Multitask Learning", Machine Learning 28 (1997); Ma et al.,
"Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", KDD 2018, equations 1, 6 and 7; Ma et al., "Entire Space
Multi-Task Model", arXiv 1804.07931, equations 1 and 3.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlrm_jax.models.deep import Deep
from dlrm_jax.models.mlp import Dense
from dlrm_jax.models.mode import Training
from dlrm_jax.models.shapes import VECTORS, Shapes


class SharedBottom(Deep):
  """One MLP for all tasks, then a tower for each; fields as in `Deep`.

  Attributes:
    shared: widths of the shared MLP, with ReLU after each layer.
  """

  shared: tuple[int, ...] = (256,)

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of dense f32[B, N] and role 'vectors' f32[B, F, D]."""
    x = self.joined(dense, vectors[VECTORS], train)
    x = self.mlp(self.shared, 'shared', True)(x, train)
    logits = [
      self.mlp((*self.top, 1), f'tower_{t}', False)(x, train)
      for t in range(self.outputs)
    ]
    return jnp.concatenate(logits, 1)


class MMoE(Deep):
  """Experts, mixed for each task by a gate of its own; fields as in `Deep`.

  Attributes:
    experts: number of experts.
    expert: widths of each, with ReLU after each layer.
  """

  experts: int = 8
  expert: tuple[int, ...] = (64,)

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot have such experts; '' where it can."""
    del shapes
    if self.experts < 1:
      return f'mmoe.experts is {self.experts}; expected 1 or more'
    return ''

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Logits f32[B, T] of dense f32[B, N] and role 'vectors' f32[B, F, D]."""
    x = self.joined(dense, vectors[VECTORS], train)
    opinions = [
      self.mlp(self.expert, f'expert_{e}', True)(x, train)
      for e in range(self.experts)
    ]
    stacked = jnp.stack(opinions, 1)
    logits = []
    for t in range(self.outputs):
      gate = Dense(self.experts, self.operands, name=f'gate_{t}')(x)
      mixed = jnp.sum(nn.softmax(gate)[:, :, None] * stacked, 1)
      tower = self.mlp((*self.top, 1), f'tower_{t}', False)
      logits.append(tower(mixed, train))
    return jnp.concatenate(logits, 1)


class ESMM(Deep):
  """Entire space multi-task model; its fields are those of `Deep`.

  Its two labels are the click, and the click that a conversion follows; both
  are known for every example. The MLPs share the vectors and the bottom MLP.
  """

  def misfit(self, shapes: Shapes) -> str:
    """Why the model cannot take such inputs; '' where it can."""
    del shapes
    if self.outputs == 2:
      return ''
    return (
      'name is esmm, which learns two labels, click and click with conversion, '
      f'but the data has {self.outputs}; set it to another model, such as mmoe'
    )

  @nn.compact
  def __call__(
    self,
    dense: jax.Array,
    vectors: Mapping[str, jax.Array],
    train: Training | None = None,
  ) -> jax.Array:
    """Scores a batch.

    Args:
      dense: f32[B, N].
      vectors: those of role 'vectors', f32[B, F, D].
      train: seed and places in training; None when scoring.

    Returns:
      Logits f32[B, 2] of click, and of click with conversion.
    """
    x = self.joined(dense, vectors[VECTORS], train)
    click, conversion = (
      self.mlp((*self.top, 1), name, False)(x, train)
      for name in ('click', 'conversion')
    )
    return jnp.concatenate([click, logit_of_product(click, conversion)], 1)


def logit_of_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """The logit of s(a) s(b), with the logistic function s; any equal shapes.

  1 / (s(a) s(b)) - 1 = e^-a + e^-b + e^(-a - b), whose logarithm is stable
  for logits of any size.

  >>> print(logit_of_product(jnp.array([0.0, 200.0]), jnp.array([0.0, -200.0])))
  [  -1.0986123 -200.       ]
  """
  return -nn.logsumexp(jnp.stack([-a, -b, -a - b], -1), -1)
