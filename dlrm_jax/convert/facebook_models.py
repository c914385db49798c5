"""Which of our models facebookresearch/dlrm has, and under which flags."""

import math
from collections.abc import Sequence
from typing import Any

from dlrm_jax.convert.program import common_misfit
from dlrm_jax.embedding.encoding import Composed, Encoding, Plain, Projected
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.operations import Add, Concat, Mult, Operation
from dlrm_jax.embedding.partitions import QuotientRemainder
from dlrm_jax.models.dlrm import DLRM, Interaction

OPERATIONS: dict[type[Operation], str] = {
  Mult: 'mult',
  Add: 'add',
  Concat: 'concat',
}
"""Names of the operations that combine quotients and remainders."""


def misfit(network: Network) -> str:
  """Why the program has no such model; '' where it has."""
  if why := common_misfit(network):
    return why
  if not isinstance(network.model, DLRM):
    name = type(network.model).__name__.lower()
    return f'model.name is {name}; expected dlrm'
  features = network.collection.features
  composed, plain, collisions = [], [], set()
  for feature in features:
    encoding, where = feature.encoding, f'(feature {feature.name})'
    if not isinstance(encoding, Composed | Plain | Projected):
      return f'tables.encoding {where}: expected plain'
    if not isinstance(encoding, Composed):
      plain.append(encoding.ids)
      continue
    if (
      not isinstance(encoding.partition, QuotientRemainder)
      or len(encoding.of) != 2
      or type(encoding.operation) not in OPERATIONS
    ):
      return (
        f'tables.encoding {where} is {encoding.meaning}; expected plain, '
        f'mixed_dims, or quotient_remainder in two parts with mult, add or '
        f'concat'
      )
    remainders, quotients = encoding.partition.buckets
    if quotients != math.ceil(encoding.ids / remainders):
      return (
        f'tables.buckets {where} are {encoding.partition.buckets}; expected '
        f'as many quotients as it takes, ({remainders}, 0)'
      )
    if not encoding.pools_first and feature.hotness > 1:
      return (
        f'tables.multi_hot {where} is combine_then_pool; expected '
        f'pool_then_combine'
      )
    composed.append(encoding)
    collisions.add((remainders, encoding.operation))
  if composed and max(plain, default=0) >= min(e.ids for e in composed):
    return (
      'tables.features: a table is plain and is not smaller than one of '
      'quotients and remainders; expected all above config.tables.threshold '
      'alike'
    )
  if len(collisions) > 1:
    return (
      'tables.buckets: the tables have several numbers of remainders or '
      'operations; expected one, such as config.tables.buckets=4,0'
    )
  mixed = any(isinstance(f.encoding, Projected) for f in features)
  if composed and mixed:
    return 'tables.features: quotient_remainder and mixed_dims; expected one'
  if (
    composed
    and isinstance(composed[0].operation, Concat)
    and len(composed) < len(features)
  ):
    return (
      'tables.threshold: vectors that are concatenated beside a plain table; '
      'expected 0'
    )
  return ''


def flags_of(network: Network) -> str:
  """The flags under which the program makes a model of a network."""
  model: Any = network.model
  features = network.collection.features
  dim = features[0].encoding.dim
  bottom = [network.dense_features, *model.bottom]
  top = [*model.top, 1]
  encodings = [feature.encoding for feature in features]
  flags = [
    f'--arch-embedding-size={"-".join(str(e.ids) for e in encodings)}',
    f'--arch-sparse-feature-size={dim}',
    f'--arch-mlp-bot={"-".join(map(str, bottom))}',
    f'--arch-mlp-top={"-".join(map(str, top))}',
  ]
  if model.interaction is Interaction.CAT:
    flags.append('--arch-interaction-op=cat')
  elif model.interaction is Interaction.DOT_ITSELF:
    flags.append('--arch-interaction-itself')
  composed = [e for e in encodings if isinstance(e, Composed)]
  if composed:
    operation, table = composed[0].operation, composed[0].of[0]
    flags[1] = f'--arch-sparse-feature-size={table.dim}'
    plain = [e.ids for e in encodings if isinstance(e, Plain)]
    flags += [
      '--qr-flag',
      f'--qr-operation={OPERATIONS[type(operation)]}',
      f'--qr-collisions={table.rows}',
      f'--qr-threshold={max(plain, default=0)}',
    ]
  if any(isinstance(e, Projected) for e in encodings):
    flags += ['--md-flag', '--md-threshold=0', _temperature(encodings)]
  return ' '.join(flags)


def _temperature(encodings: Sequence[Encoding]) -> str:
  """The flag of mixed dimensions, or the widths where no value gives them.

  The program's width of a table of n ids is D (n_min / n)^t, rounded, and 1 or
  more.
  """
  dim, fewest = encodings[0].dim, min(e.ids for e in encodings)
  widths = [e.tables[0].dim for e in encodings]
  low, high = 0.0, math.inf
  for encoding, width in zip(encodings, widths, strict=True):
    if encoding.ids == fewest:
      continue
    log = math.log(encoding.ids / fewest)
    low = max(low, math.log(dim / (width + 0.5)) / log)
    if width > 1:
      high = min(high, math.log(dim / (width - 0.5)) / log)
  if low >= high:
    return f'and DLRM_Net made with m_spa={widths}, as no temperature does'
  return f'--md-temperature={low + min(0.5 * (high - low), 0.01):.6g}'
