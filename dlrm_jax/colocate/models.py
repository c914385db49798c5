"""The models that engines have: variants of `configs/rmc.py`, trained ones."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dlrm_jax.batch import Inputs
from dlrm_jax.data.schema import Schema
from dlrm_jax.embedding.collection import Tables
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.errors import InputError

VARIANTS = ('rmc1', 'rmc2', 'rmc3')
"""Variants of `configs/rmc.py`."""

AS_STORED = 'as stored'
"""The storage of the tables of a trained model."""

POOL = 4096
"""Items of which an engine has drawn inputs."""


class Spec(NamedTuple):
  """A model.

  Attributes:
    name: a variant of `configs/rmc.py`, or the name that a folder was given.
    folder: a workdir or an export; None: a variant, untrained.
    storage: of the tables of a variant, or `AS_STORED`.
    scale: factor of the rows of the tables of a variant.
    mark: changes with the content of the folder; '' of a variant.
  """

  name: str
  folder: Path | None
  storage: str
  scale: float
  mark: str = ''

  def __str__(self) -> str:
    return f'{self.name}, tables {self.storage}'


class Loaded(NamedTuple):
  """A model in memory, on one device.

  Attributes:
    network: what scores.
    layers: its layers.
    tables: its tables.
    schema: its columns.
    weighted: whether it takes only ids with weights.
  """

  network: Network
  layers: Layers
  tables: Tables
  schema: Schema
  weighted: bool


class Bytes(NamedTuple):
  """Memory of the tables of a model.

  Attributes:
    kept: while it scores.
    made: more, while it is made.
  """

  kept: int
  made: int


def _variant(spec: Spec) -> tuple[Network, Schema]:
  """The network of a variant, in the layout of an export, and its columns."""
  from dlrm_jax.build.data import open_schema
  from dlrm_jax.build.network import build_network
  from dlrm_jax.configs import rmc
  from dlrm_jax.scoring.function import flat

  config = rmc.get_config(spec.name)
  config.data.synthetic.size = spec.scale
  config.tables.storage = spec.storage
  schema, scale = open_schema(config)
  return flat(build_network(config, schema, scale)), schema


def _stored(folder: Path) -> Network:
  """The network of a workdir or an export."""
  from dlrm_jax.build.chosen import choose
  from dlrm_jax.configs import default
  from dlrm_jax.scoring import export_folder
  from dlrm_jax.scoring.exported import network_of_export

  if not folder.is_dir():
    raise InputError(f'{folder}: no such folder; expected a workdir or export')
  if (folder / export_folder.MODEL).exists():
    about = export_folder.read_description(folder)
    with export_folder.reading(folder):
      return network_of_export(folder, about)
  return choose(folder, 'best', default.get_config().to_dict()).run.task.network


def bytes_of(spec: Spec) -> Bytes:
  """The memory that the tables of a model need; no array is made.

  Raises:
    InputError: the folder has no model, or the storage does not fit a table.
  """
  network = _stored(spec.folder) if spec.folder else _variant(spec)[0]
  tables = network.collection.tables
  kept = sum(t.rows * t.storage.row_bytes(t.dim) for t in tables)
  values = sum(
    t.rows * FLOAT32.row_bytes(t.dim) for t in tables if t.storage != FLOAT32
  )
  return Bytes(kept, 0 if spec.folder else values)


def load(spec: Spec, seed: int) -> Loaded:
  """Loads a model, or makes a variant with drawn values.

  Args:
    spec: the model.
    seed: of the values of a variant.
  """
  if spec.folder:
    from dlrm_jax.scoring.load import load as load_folder

    model = load_folder(spec.folder)
    learned, card = model.learned, model.card
    arrays = learned.layers, learned.tables
    return Loaded(learned.network, *arrays, card.schema, card.weighted)
  network, schema = _variant(spec)
  keys = jax.random.split(jax.random.key(seed))
  layers = jax.jit(network.init)(keys[0])
  tables = jax.jit(network.collection.init)(keys[1])
  return Loaded(network, layers, tables, schema, weighted=False)


def draw_items(
  loaded: Loaded, exponent: float, rng: np.random.Generator
) -> Inputs:
  """Inputs of `POOL` items: ids of a power law in full bags, normal numbers.

  Args:
    loaded: the model.
    exponent: exponent of the power law; 0: all ids are equally popular.
    rng: source of randomness.
  """
  from dlrm_jax.synthetic.ids import Ids

  schema = loaded.schema
  source = Ids(schema.sparse, 0, exponent, {}, full_bags=True)
  ids = np.concatenate(source.draw(rng, POOL, 0, 0))
  return Inputs(
    rng.standard_normal((POOL, len(schema.dense)), np.float32),
    np.ascontiguousarray(ids.T),
    np.ones(ids.T.shape, np.float32) if loaded.weighted else None,
  )
