"""Raw values of requests -> inputs of the network."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.scoring.intake import Intake
from dlrm_jax.serving.features import DenseFeature, SparseFeature
from dlrm_jax.serving.interface import ColumnRows, Interface
from dlrm_jax.serving.memory import Faults


class Coding:
  """Encodes the rows of requests; used by one thread.

  Attributes:
    unknown: names of the sparse features with a row for unknown values.
    needed: names of the columns that must not be missing.
  """

  def __init__(self, intake: Intake, interface: Interface) -> None:
    """Opens the vocabularies."""
    self._weighted, self._interface = intake.weighted, interface
    self._dense = [DenseFeature(intake, x) for x in intake.schema.dense]
    self._sparse = [
      SparseFeature(intake, source, coder, weighted=self._weighted)
      for source, coder in zip(intake.schema.sparse, intake.coders, strict=True)
    ]
    self._unknown = [
      intake.unknown[x.name].row if x.name in intake.unknown else None
      for x in self._sparse
    ]
    self.unknown = tuple(intake.unknown)
    self.needed = frozenset(
      source.column
      for source, feature in zip(
        intake.schema.sparse, self._sparse, strict=True
      )
      if feature.needed()
    )

  def remembers(self, request: ColumnRows) -> bool:
    """Whether all values of a request were encoded before, not long ago."""
    return all(x.remembers(request) for x in (*self._dense, *self._sparse))

  def __call__(
    self, requests: Sequence[ColumnRows], counts: Sequence[int]
  ) -> tuple[Inputs, Faults, dict[str, int]]:
    """Encodes the rows of some requests together.

    Args:
      requests: their columns.
      counts: their numbers of rows.

    Returns:
      Their rows, one request after the other; faults of requests, whose rows
      have no meaning; and how many ids of each feature were unknown in the
      others.
    """
    rows = sum(counts)
    faults: Faults = {}
    dense = np.empty((rows, len(self._dense)), np.float32)
    for place, feature in enumerate(self._dense):
      (found,) = self._all(feature, requests, counts, faults)
      dense[:, place] = found[:, 0]
    ids, weights = [], []
    unknown: dict[str, np.ndarray] = {}
    for feature, row in zip(self._sparse, self._unknown, strict=True):
      found = self._all(feature, requests, counts, faults)
      ids.append(found[0])
      weights += found[1:]
      if row is not None:
        unknown[feature.name] = found[0] == row
    all_weights = np.concatenate(weights, 1) if self._weighted else None
    ends = list(itertools.accumulate(counts))
    while found := self._interface.negative(all_weights):
      request = bisect.bisect_right(ends, found[0])
      first = ends[request] - counts[request]
      faults.setdefault(request, f'row {found[0] - first}, {found[1]}')
      all_weights[first : ends[request]] = 0  # pyrefly: ignore
    for request in faults:
      for places in unknown.values():
        places[ends[request] - counts[request] : ends[request]] = False
    inputs = Inputs(dense, np.concatenate(ids, 1), all_weights)
    found = {n: int(np.count_nonzero(x)) for n, x in unknown.items()}
    return inputs, faults, found

  def _all(
    self,
    feature: SparseFeature | DenseFeature,
    requests: Sequence[ColumnRows],
    counts: Sequence[int],
    faults: Faults,
  ) -> list[np.ndarray]:
    """What the values of a feature became, for every row; notes faults."""
    (arrays, wrong), lengths = feature.encoded(requests)
    if wrong:
      ends = list(itertools.accumulate(lengths))
      for number, fault in wrong.items():
        request = bisect.bisect_right(ends, number)
        row = number - (ends[request] - lengths[request])
        faults.setdefault(request, f'row {row}, column {feature.name}: {fault}')
    if lengths == list(counts):
      return arrays
    repeats = np.ones(len(arrays[0]), np.int64)
    starts = np.cumsum([0, *lengths[:-1]])
    for start, length, count in zip(starts, lengths, counts, strict=True):
      if length < count:
        repeats[start] = count
    return [np.repeat(array, repeats, 0) for array in arrays]
