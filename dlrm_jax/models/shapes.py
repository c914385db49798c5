"""What a model gets: the shapes of its inputs."""

from collections.abc import Mapping
from typing import NamedTuple

VECTORS = 'vectors'
"""The role of the vectors that interact, the only one of DLRM."""

LINEAR = 'linear'
"""The role of the weights of ids, one for each output of a linear model."""


class Shapes(NamedTuple):
  """Shapes of the inputs of a model, without the batch.

  Attributes:
    dense: N, the number of dense features.
    vectors: role -> (features, width) of its vectors, f32[B, features, width].
  """

  dense: int
  vectors: Mapping[str, tuple[int, int]]


def needs_one_output(name: str, outputs: int) -> str:
  """Why a model with a single logit cannot learn T labels; '' where T = 1.

  Args:
    name: name of the model in the config.
    outputs: T.
  """
  if outputs == 1:
    return ''
  return (
    f'name is {name}, which has one output, but the data has {outputs} labels; '
    'set it to a model with an output for each, such as mmoe'
  )


def needs_a_pair(name: str, shapes: Shapes, role: str) -> str:
  """Why a model of pairs cannot take such inputs; '' where it can.

  Args:
    name: name of the model in the config.
    shapes: of its inputs.
    role: the role whose vectors are those of the pair.
  """
  count, _ = shapes.vectors[role]
  if count == 2:
    return ''
  return (
    f'name is {name}, which takes two sparse features, a user and an item, but '
    f'the data has {count}; set it to a model of any features, such as deepfm'
  )


def needs_no_dense(name: str, shapes: Shapes) -> str:
  """Why a model without use for dense features refuses them; '' where N = 0."""
  if not shapes.dense:
    return ''
  return (
    f'name is {name}, which has no use for dense features, but the data has '
    f'{shapes.dense}; set it to a model that has, such as deepfm'
  )
