"""Encodings that many tables share: one array, or one law of widths."""

import math

from dlrm_jax.build.wanted import Wanted, name_in_role
from dlrm_jax.embedding import sizes
from dlrm_jax.embedding.encoding import Composed, Encoding, Projected
from dlrm_jax.embedding.operations import Concat
from dlrm_jax.embedding.partitions import Hashes
from dlrm_jax.embedding.table import Table
from dlrm_jax.errors import InputError

_ROBE = 'robe'  # name of the array


def robe(wanted: list[Wanted]) -> dict[str, Encoding]:
  """One array for all tables; the pieces of each vector are hashed into it."""
  parts = {w.parts(usual=2, least=1) for w in wanted}
  if len(parts) > 1:
    raise InputError(
      f'config.tables.parts: {sorted(parts)} for robe; all features share one '
      f'array, so expected one number'
    )
  count, dim = parts.pop(), wanted[0].dim
  if dim % count:
    raise InputError(
      f'width {dim} (config.model.dim) cannot be cut into {count} equal '
      f'parts; change config.tables.parts'
    )
  width = Concat().widths(dim, count)[0]
  rows = max(sum(w.budget for w in wanted) // width, 1)
  bound = math.sqrt(sum(w.bound**2 * w.ids for w in wanted))
  bound /= math.sqrt(sum(w.ids for w in wanted))
  name = name_in_role(_ROBE, wanted[0].role)
  array = Table(name, rows, width, wanted[0].init, bound=bound)
  return {
    w.name: Composed(
      (array,) * count, Hashes(w.ids, (rows,) * count, salt), Concat(), dim
    )
    for salt, w in enumerate(wanted, 1)
  }


def _alpha(wanted: list[Wanted]) -> float:
  """The power of the law of widths: as given, or solved for the budget."""
  rows, dim = [w.ids for w in wanted], wanted[0].dim
  alphas = {w.options['alpha'] for w in wanted}
  if len(alphas) > 1 or not all(
    isinstance(a, int | float) and 0 <= a < 100 for a in alphas
  ):
    raise InputError(
      f'config.tables.alpha is {" and ".join(sorted(map(str, alphas)))}; '
      f'expected one number from 0 for all features with mixed_dims'
    )
  alpha = float(alphas.pop())
  if alpha:
    return alpha
  least, plain = sizes.least_mixed(rows, dim), sum(rows) * dim
  if least >= plain:
    raise InputError(
      f'tables of {", ".join(f"{n:,}" for n in rows)} ids: the smallest keeps '
      f'the full width, so larger ones are needed beside it; name another '
      f'encoding'
    )
  budget = sum(w.budget for w in wanted)
  if not any(w.options['rows'] for w in wanted):
    budget = max(budget, least)
  return sizes.solve_alpha(rows, dim, budget)


def mixed_dims(wanted: list[Wanted]) -> dict[str, Encoding]:
  """Narrower rows for larger tables, by a power law."""
  rows, dim = [w.ids for w in wanted], wanted[0].dim
  widths = sizes.mixed_widths(rows, dim, _alpha(wanted))
  return {
    w.name: w.plain
    if width == dim
    else Projected(w.table('', w.ids, width, w.bound), dim)
    for w, width in zip(wanted, widths, strict=True)
  }
