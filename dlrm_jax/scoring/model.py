"""A trained model that scores: raw rows in, probabilities out.

model = dlrm_jax.load('runs/kaggle')
model.predict({'I1': [3], ..., 'C26': ['1f2c6d3a']})  # f32[1]
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.data.checked import negative_weight
from dlrm_jax.data.schema import Schema
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.once import once
from dlrm_jax.scoring.scorer import Scorer

if TYPE_CHECKING:
  import polars as pl

  from dlrm_jax.scoring.function import LoadedNetwork
  from dlrm_jax.scoring.intake import Intake
  from dlrm_jax.scoring.learned import Learned


class Card(NamedTuple):
  """What is known of a model.

  Attributes:
    folder: the workdir or the export that it was loaded from.
    step: number of updates of its training.
    metrics: metrics of its validation; empty if it was not evaluated.
    name: name of the model in the config.
    data: the `identity` of the data of its training.
    out_of_range: what happens to an id without a row: 'stop' or 'unknown'.
    means: names of the features that are pooled by their mean.
    weighted: whether the network only takes ids with weights.
  """

  folder: str
  step: int
  metrics: Mapping[str, float]
  name: str
  data: Mapping[str, Any]
  out_of_range: str
  means: tuple[str, ...]
  weighted: bool

  @property
  def schema(self) -> Schema:
    """The columns of the network."""
    return Schema.from_json(self.data)


class Model:
  """A model that scores; `dlrm_jax.load` makes it.

  Attributes:
    card: what is known of it.
    labels: names of its tasks, one a column of what it predicts.
    engine: what multiplies its int8 layers; '' where it has none.
  """

  def __init__(
    self,
    card: Card,
    scorer: Scorer,
    open_intake: Callable[[], 'Intake'],
    open_network: Callable[[], 'LoadedNetwork'],
    engine: str = '',
  ) -> None:
    """Puts a model together.

    Args:
      card: what is known of it.
      scorer: scores inputs of its network.
      open_intake: opens the intake of raw values, once one is needed.
      open_network: builds the network and places its arrays, once they are
        needed.
      engine: what multiplies its int8 layers.
    """
    self.card = card
    self.labels = card.schema.labels
    self.engine = engine
    self.scorer = scorer.checking(self._check)
    self._open_intake = once(open_intake)
    self._open_network = once(open_network)

  def __repr__(self) -> str:
    return (
      f'<{self.card.name} of {self.card.folder}, step {self.card.step:,}: '
      f'{", ".join(self.labels)}>'
    )

  def _check(self, inputs: Inputs) -> None:
    """Raises an `InputError` for weights that a mean cannot have."""
    found = negative_weight(
      self.card.schema, self.card.means, inputs.id_weights
    )
    if found:
      raise InputError(
        f'feature {found.feature} has an id of weight {found.weight:g}; it is '
        f'pooled by the mean, whose weights must not be negative'
      )

  @property
  def intake(self) -> 'Intake':
    """How raw values become inputs; opens the vocabularies."""
    return self._open_intake()

  @property
  def network(self) -> 'LoadedNetwork':
    """Its network and arrays, for programs other than `scorer`."""
    return self._open_network()

  @property
  def learned(self) -> 'Learned':
    """The learned vectors of its features."""
    from dlrm_jax.scoring.learned import Learned

    return Learned(*self.network)

  def predict(self, rows: Any, split: str | None = None) -> np.ndarray:
    """Probabilities of rows of raw values.

    Values go through the vocabularies, hashes and transforms of the training;
    values that it did not see get the row of unknown values.

    Args:
      rows: a dict of arrays or lists by name of the column, a frame of Polars
        or pandas, or the path of a file or of a prepared set (`predict` of the
        command line reads several files, and writes as it goes).
      split: split of a prepared set; None: test.

    Returns:
      f32[B], or f32[B, T] where the model has T > 1 tasks (`labels`).

    Raises:
      InputError: a column is missing, a value is wrong, or the file cannot be
        read.
    """
    if isinstance(rows, str | os.PathLike):
      return self._by_task(self._of_path(Path(rows), split))
    if split is not None:
      raise InputError(
        f'split={split!r}: splits are of a prepared set, and this is a '
        f'{type(rows).__name__}; leave it out'
      )
    from dlrm_jax.scoring.frames import IN_MEMORY, frame_of_rows

    frame = frame_of_rows(rows, self.intake.schema.names)
    self.intake.schema.check(frame.columns, IN_MEMORY)
    if not frame.height:
      return self._by_task(self._empty)
    return self._by_task(self.scorer(self.intake.inputs(frame)))

  @property
  def _empty(self) -> np.ndarray:
    return np.empty((0, len(self.labels)), np.float32)

  def _by_task(self, scores: np.ndarray) -> np.ndarray:
    return scores[:, 0] if len(self.labels) == 1 else scores

  def _of_path(self, path: Path, split: str | None) -> np.ndarray:
    from dlrm_jax.scoring.predictions import predictions
    from dlrm_jax.scoring.sources import source_of

    rows = source_of(self, [str(path)], split).rows()
    found = predictions(self.scorer, rows, len(self.labels))
    return np.concatenate([self._empty, *(some.scores for some in found)])

  def score(
    self,
    dense: Any,
    ids: Any,
    id_weights: Any = None,
  ) -> np.ndarray:
    """Probabilities of rows as the network takes them.

    Args:
      dense: the transformed dense features, f32[B, N].
      ids: rows of the tables, the columns side by side, i32[B, H]; an id
        outside of its table counts as no id, such as PAD = -1.
      id_weights: weights of the ids, f32[B, H]; None: each counts once.

    Returns:
      f32[B], or f32[B, T] where the model has T > 1 tasks.

    Raises:
      InputError: an array has another shape, or ids are no integers.
    """
    schema = self.card.schema
    dense, ids = _array('dense', dense), _array('ids', ids)
    count = len(np.atleast_1d(ids))
    dense = _checked('dense', dense, (count, len(schema.dense)), np.float32)
    ids = _checked('ids', ids, (count, schema.hotness), np.int32)
    if id_weights is not None:
      id_weights = _array('id_weights', id_weights)
      id_weights = _checked('id_weights', id_weights, ids.shape, np.float32)
    elif self.card.weighted:
      id_weights = np.ones(ids.shape, np.float32)
    if not count:
      return self._by_task(self._empty)
    return self._by_task(self.scorer(Inputs(dense, ids, id_weights)))

  def vectors(self, feature: str, role: str | None = None) -> 'pl.DataFrame':
    """The learned vectors of a sparse feature, one for each id.

    Args:
      feature: name of the feature.
      role: which of its vectors, where the model has several kinds
        (`describe()` names them); None: the first.

    Returns:
      A frame with the columns `row` (the id), `value` (null for the row of
      unknown or missing values, and where rows are hashed) and `vector`.
    """
    return self.learned.frame(self.intake, feature, role)

  def similar(
    self, feature: str, value: Any, k: int = 10, role: str | None = None
  ) -> 'pl.DataFrame':
    """The values whose vectors have the largest cosines with that of a value.

    Args:
      feature: name of the feature.
      value: a raw value.
      k: number of values.
      role: as in `vectors`.

    Returns:
      A frame with the columns `row`, `value` and `cosine`, the largest first.
    """
    return self.learned.similar(self.intake, feature, value, k, role)

  def describe(self) -> dict[str, Any]:
    """What the model is: its columns, tables, labels, step and metrics."""
    schema = self.card.schema
    return {
      'folder': self.card.folder,
      'model': self.card.name,
      'step': self.card.step,
      'metrics': dict(self.card.metrics),
      'labels': list(self.labels),
      'dense': list(schema.dense),
      'sparse': {
        column.name: {'rows': column.rows, 'hotness': column.hotness}
        for column in schema.sparse
      },
      **self.learned.describe(),
    }


def _array(name: str, values: Any) -> np.ndarray:
  """An argument of `score` as an array.

  Raises:
    InputError: its rows have different lengths.
  """
  try:
    return np.asarray(values)
  except ValueError:
    raise InputError(
      f'{name} has rows of different lengths; expected an array'
    ) from None


def _checked(
  name: str, array: np.ndarray, shape: Sequence[int], dtype: type
) -> np.ndarray:
  """An argument of `score` in its type.

  Raises:
    InputError: it has another shape, or values that the type cannot hold.
  """
  if array.shape != tuple(shape):
    raise InputError(
      f'{name} has the shape {list(array.shape)}; expected {list(shape)}'
    )
  whole = dtype is np.int32
  if array.dtype.kind not in ('iu' if whole else 'iufb'):
    raise InputError(
      f'{name} has the type {array.dtype}; expected '
      f'{"integers" if whole else "numbers"}'
    )
  if not whole and not np.isfinite(array).all():
    raise InputError(f'{name} has a number that is not finite; expected none')
  if whole and array.size:
    least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    if array.min() < least or array.max() > most:
      raise InputError(
        f'{name} has numbers up to {array.max()}; expected int32, rows of the '
        'tables: raw values are for predict'
      )
  return array.astype(dtype, copy=False)
