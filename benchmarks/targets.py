"""What is aimed at, and how far a row is from it.

No file of results has targets: they are joined with what was measured where it
is printed, so a target that changes is judged anew on every machine.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from benchmarks.peers import (
  BAGS,
  DLRM,
  FLOAT32,
  FUXICTR,
  NUMPY,
  OURS,
  TORCH,
  TORCHREC,
)

SHARE = 'share'
"""Of the speed of the largest product, which is no peer."""

PEERS = {
  DLRM: 'dlrm',
  TORCHREC: 'torchrec',
  BAGS: 'EmbeddingBag',
  FUXICTR: 'FuxiCTR',
  NUMPY: 'NumPy',
  TORCH: 'PyTorch',
}
"""Short names."""

_SHORT = {**PEERS, FLOAT32: 'our float32', SHARE: 'of the product'}
_FASTEST = ''

LEAST: dict[str, dict[str, float]] = {
  'step, batch 128, float32': {_FASTEST: 2.4},
  'step, batch 2048, float32': {_FASTEST: 2.3},
  'step, batch 16384, float32': {_FASTEST: 2.5},
  'step, batch 2048, bfloat16 products *': {_FASTEST: 3.2},
  'step, batch 16384, bfloat16 products *': {_FASTEST: 3.2},
  'step, batch 2048, bfloat16 (peers: torch.autocast)': {_FASTEST: 1.5},
  'step, batch 16384, bfloat16 (peers: torch.autocast)': {_FASTEST: 1.2},
  'from raw log to test metrics, batch 2048 (peer: 128)': {_FASTEST: 10.0},
  'from raw log to test metrics, *, with kept programs': {_FASTEST: 3.0},
  'RM[12]: lookup': {TORCHREC: 1.7, BAGS: 1.05},
  'RM3: lookup': {TORCHREC: 1.25, BAGS: 1.05},
  'RM1: lookup + update, row-wise Adagrad': {_FASTEST: 1.7},
  'RM2: lookup + update, row-wise Adagrad': {_FASTEST: 1.5},
  'RM3: lookup + update, row-wise Adagrad': {_FASTEST: 2.0},
  'RM?: lookup, int[48]': {TORCHREC: 1.0, FLOAT32: 1.3},
  '128: lookup + update, row-wise Adagrad': {_FASTEST: 2.0},
  '2048: lookup + update, row-wise Adagrad': {_FASTEST: 1.3},
  '16384: lookup + update, row-wise Adagrad': {_FASTEST: 1.2},
  'inference, batch 1, p50': {TORCHREC: 2.0},
  'inference, batch 64, p50': {TORCHREC: 2.0},
  'inference, batch 1024, p50': {TORCHREC: 2.5},
  'inference in int8, batch 64, p50': {TORCHREC: 1.2, FLOAT32: 1.5},
  'inference in int8, batch 1024, p50': {TORCHREC: 1.2, FLOAT32: 1.5},
  'product of int64, 512 x 512 x 512': {NUMPY: 3.0},
  'prepare *': {_FASTEST: 100.0},
  'requests/s of *': {TORCHREC: 3.0},
  'epoch of Frappe with validation, dlrm, float32': {_FASTEST: 4.0},
  'epoch of Frappe with validation, dlrm, bfloat16 products': {_FASTEST: 6.0},
  'layers, forward and backward, *, float32': {SHARE: 0.8},
  'layers, forward and backward, *, bfloat16': {SHARE: 0.65},
}
"""How many times better than a contender, the fastest peer where none is
named; by patterns of what is measured."""

OWN = {
  'row-wise Adagrad instead of SGD, *': 1.1,
  'product of int64, 512 x 512 x 512': 10.0,
  'start to first step, cold': 4.0,
  'start to first step, kept programs': 2.3,
  'peak memory beyond state and batch, *': 624.0,
}
"""Our own number: the least of what is better the more, else the most."""


class Comparison(NamedTuple):
  """Ours beside another.

  Attributes:
    beside: short name of the other.
    ratio: above 1 where ours is better.
    target: the least ratio that is aimed at; None: none is.
  """

  beside: str
  ratio: float
  target: float | None

  @property
  def missed(self) -> bool:
    """Whether the target is."""
    return self.target is not None and self.ratio < self.target

  def text(self) -> str:
    """As in `1.40† torchrec`."""
    return f'{self.ratio:.2f}{MISSED * self.missed} {self.beside}'


MISSED = '†'


def comparisons(row: Mapping[str, Any]) -> list[Comparison]:
  """Those with a target first, then that with the fastest peer.

  Args:
    row: as `peers.row` makes it; any other has none.
  """
  aims = _of(LEAST, row.get('what', '')) or {}
  beside = {n: _ratio(row, n) for n in _SHORT if row.get(n) is not None}
  rivals = [name for name in beside if name in PEERS]
  if rivals:
    fastest = min(rivals, key=beside.__getitem__)
    aims = {fastest if k == _FASTEST else k: v for k, v in aims.items()}
    aims = {**aims, fastest: aims.get(fastest)}
  return [
    Comparison(_SHORT[name], beside[name], target)
    for name, target in aims.items()
    if name in beside
  ]


def _ratio(row: Mapping[str, Any], other: str) -> float:
  if other == SHARE:
    return row[SHARE]
  ratio = row[OURS] / row[other]
  return ratio if _more_is_better(row) else 1 / ratio


def _more_is_better(row: Mapping[str, Any]) -> bool:
  return row['unit'].endswith('/s')


def own_missed(row: Mapping[str, Any]) -> bool:
  """Whether our own number misses its target."""
  target = _of(OWN, row['what'])
  if target is None:
    return False
  return row[OURS] < target if _more_is_better(row) else row[OURS] > target


def aimed(row: Mapping[str, Any]) -> str:
  """The targets of a row, as in `1.7 torchrec, 1.05 EmbeddingBag`."""
  what = row['what']
  texts = [
    f'{target:g} {_SHORT.get(name, "")}'.strip()
    for name, target in (_of(LEAST, what) or {}).items()
  ]
  own = _of(OWN, what)
  if own is not None:
    words = 'at least' if _more_is_better(row) else 'at most'
    texts.append(f'{words} {own:g} {row["unit"]}')
  return ', '.join(texts)


def unmeasured(names: Iterable[str]) -> list[str]:
  """The patterns of targets that none of what was measured has."""
  names = list(names)
  return [
    pattern
    for pattern in {**LEAST, **OWN}
    if not any(fnmatchcase(name, pattern) for name in names)
  ]


def _of(targets: Mapping[str, Any], what: str) -> Any:
  found = (x for k, x in targets.items() if fnmatchcase(what, k))
  return next(found, None)
