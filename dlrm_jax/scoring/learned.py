"""What a model has learned of the values of a feature: a vector for each."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax.sharding import Mesh

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import Tables
from dlrm_jax.embedding.features import Feature, column_hotness
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.errors import InputError
from dlrm_jax.scoring.intake import Intake, reading_vocabularies
from dlrm_jax.vocabulary.keys import in_hex

_PIECE = 1 << 16  # ids that are encoded at a time


class Learned:
  """The vectors of the features of a network.

  Attributes:
    network: the network.
    layers: its layers.
    tables: its tables, on the devices.
  """

  def __init__(
    self, network: Network, layers: Layers, tables: Tables, mesh: Mesh
  ) -> None:
    self.network = network
    self.layers = layers
    self.tables = tables
    self._mesh = mesh

  @property
  def features(self) -> tuple[Feature, ...]:
    """The features, of which several may read one column."""
    return tuple(self.network.collection.features)

  def describe(self) -> dict[str, Any]:
    """Encodings, roles and sizes."""
    features = self.network.collection.features
    tables = self.network.collection.tables
    return {
      'encodings': {
        f.name: f'{f.encoding.meaning}, width {f.encoding.dim}'
        for f in features
      },
      'roles': list(dict.fromkeys(f.role for f in features)),
      'table_numbers': sum(t.rows * t.dim for t in tables),
      'layer_numbers': sum(x.size for x in jax.tree.leaves(self.layers)),
    }

  def _chosen(self, name: str, role: str | None) -> Feature:
    """The feature of a column and a role."""
    features = self.network.collection.features
    found = {f.role: f for f in features if f.source == name}
    if not found:
      columns = dict.fromkeys(f.source for f in features)
      raise InputError(
        f'feature {name!r}: there is none; expected one of {", ".join(columns)}'
      )
    if role is not None and role not in found:
      raise InputError(
        f'role {role!r}: feature {name} has none; expected one of '
        f'{", ".join(found)}'
      )
    return found[role or next(iter(found))]

  def pieces(
    self, name: str, role: str | None = None
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Vectors of consecutive ids of a feature, f32[n, width], and the first id.

    Of independent tables they are those of node 0.
    """
    feature, network = self._chosen(name, role), self.network
    hotness = column_hotness(network.collection.features)
    first = sum(list(hotness.values())[: list(hotness).index(feature.source)])
    alike = [f for f in network.collection.features if f.role == feature.role]
    place = alike.index(feature)

    def encoded(layers: Layers, tables: Tables, ids: jax.Array) -> jax.Array:
      all_ids = jnp.full((len(ids), network.ids), PAD, jnp.int32)
      inputs = Inputs(
        jnp.zeros((len(ids), network.dense_features)),
        all_ids.at[:, first].set(ids),
      )
      by_role = network.encoded(layers, tables, inputs)
      return by_role[feature.role][:, place]

    compiled = jax.jit(encoded)
    count = feature.encoding.ids
    size = -(-min(_PIECE, count) // self._mesh.size) * self._mesh.size
    for start in range(0, count, size):
      ids = np.arange(start, start + size, dtype=np.int32)
      with sharding.use(self._mesh):
        sent = sharding.send(np.where(ids < count, ids, PAD))
        vectors = compiled(self.layers, self.tables, sent)
      yield start, sharding.local_part(vectors)[: count - start]

  def matrix(self, name: str, role: str | None = None) -> np.ndarray:
    """Vectors of all ids of a feature, f32[ids, width]."""
    return np.concatenate([piece for _, piece in self.pieces(name, role)])

  def frames(
    self, intake: Intake, name: str, role: str | None = None
  ) -> Iterator[pl.DataFrame]:
    """Ids, values and vectors of a feature in pieces; see `Model.vectors`."""
    for start, vectors in self.pieces(name, role):
      stop = start + len(vectors)
      yield pl.DataFrame(
        {
          'row': np.arange(start, stop, dtype=np.int32),
          'value': values_of(intake, name, start, stop),
          'vector': pl.Series(
            vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])
          ),
        }
      )

  def frame(
    self, intake: Intake, name: str, role: str | None = None
  ) -> pl.DataFrame:
    """All ids, values and vectors of a feature; see `Model.vectors`."""
    return pl.concat(self.frames(intake, name, role))

  def similar(
    self, intake: Intake, name: str, value: Any, k: int, role: str | None
  ) -> pl.DataFrame:
    """Nearest values of a value; see `Model.similar`."""
    if not isinstance(k, int | np.integer) or k < 1:
      raise InputError(f'k is {k!r}; expected a whole number, 1 or more')
    self._chosen(name, role)
    row = row_of(intake, name, value)
    vectors = self.matrix(name, role)
    norms = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    cosines = vectors @ vectors[row] / (norms * norms[row])
    cosines[row] = -np.inf  # not the value itself
    known = values_of(intake, name, 0, len(vectors))
    if known.null_count() < len(known):
      cosines[known.is_null().to_numpy()] = -np.inf
    best = np.argsort(-cosines, kind='stable')[:k]
    best = best[np.isfinite(cosines[best])]
    return pl.DataFrame(
      {'row': best.astype(np.int32), 'value': known[best]}
    ).with_columns(pl.Series('cosine', cosines[best]))


def values_of(intake: Intake, name: str, start: int, stop: int) -> pl.Series:
  """The raw values of rows `start` ... `stop` - 1 of a feature.

  Null where there is none: rows of unknown and missing values, hashed rows.
  """
  coder = next(c for c in intake.coders if c.column.name == name)
  column, count = coder.column, stop - start
  if column.ids == 'rows':
    return pl.Series('value', np.arange(start, stop), pl.Int64)
  if column.ids != 'vocabulary' or column.modulo:
    return pl.Series('value', [None], pl.String).new_from_index(0, count)
  first = max(start - coder.base, 0)
  with reading_vocabularies():
    intake.vocabularies[name].stat()  # Polars has other words for its absence.
    scan = pl.scan_parquet(intake.vocabularies[name], glob=False)
    frame = scan.slice(first, max(stop - coder.base - first, 0)).collect()
  if 'value' in frame.columns:
    values = frame['value']
  elif _kind(intake, name) == 'hex':
    values = frame.select(in_hex(pl.col('key'))).to_series()
  else:
    values = frame['key'].cast(pl.UInt64).reinterpret(signed=True)
  before = min(max(coder.base - start, 0), count)
  after = count - before - len(values)
  parts = [values.clear(before), values, values.clear(after)]
  return pl.concat(parts).alias('value')


def _kind(intake: Intake, name: str) -> str:
  return next(s.values for s in intake.schema.sparse if s.feature.name == name)


def row_of(intake: Intake, name: str, value: Any) -> int:
  """The row of a raw value.

  Raises:
    InputError: the value is not in the vocabulary, or of another kind.
  """
  one = intake.only(name)
  (source,), (coder,) = one.schema.sparse, one.coders
  frame = pl.DataFrame({source.column: [value]}, strict=False)
  inputs = one.inputs(frame)
  row = int(inputs.ids[0, 0])
  least = coder.base if coder.column.ids == 'vocabulary' else 0
  if row < least:
    raise InputError(
      f'feature {name}: value {value!r} has no row of its own, as it was not '
      'in the training; vectors() lists all values'
    )
  return row
