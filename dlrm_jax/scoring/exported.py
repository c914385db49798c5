"""Loads an export: its own program on one device, the network on several."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.errors import InputError
from dlrm_jax.scoring import folder as files
from dlrm_jax.scoring.model import Card, Model
from dlrm_jax.scoring.once import once
from dlrm_jax.scoring.scorer import Score, Scorer

if TYPE_CHECKING:
  from dlrm_jax.embedding.network import Layers, Network
  from dlrm_jax.scoring.intake import Intake
  from dlrm_jax.scoring.learned import Learned


class _Arrays(NamedTuple):
  """The arrays of an export, by name."""

  parameters: Mapping[str, np.ndarray]
  tables: Mapping[str, np.ndarray]


class _Built(NamedTuple):
  """The network of an export, built from its config.

  Attributes:
    network: the network.
    layers: its layers.
    tables: its tables, on the devices.
    score: the compiled function of inputs.
  """

  network: 'Network'
  layers: 'Layers'
  tables: Any
  score: Score


def _program(
  path: Path, arrays: _Arrays, network: Callable[[], _Built]
) -> Score:
  """The exported program; the network in its place where that does not fit.

  Programs have a window of versions of JAX that can run them. The file is
  whole, as its digest says; so what cannot be read is of another version.
  """
  from jax import export

  try:
    program = export.deserialize(bytearray((path / files.NETWORK).read_bytes()))
  except (ValueError, AttributeError, NotImplementedError, struct.error):
    return lambda inputs: network().score(inputs)
  if jax.default_backend() not in (*program.platforms, 'gpu'):
    return lambda inputs: network().score(inputs)
  call = jax.jit(program.call)
  on_device = jax.device_put(arrays)
  runs: bool | None = None  # None: it was not tried

  def score(inputs: Inputs) -> jax.Array:
    nonlocal runs
    given = [x for x in inputs if x is not None]
    wanted = len(program.in_avals) - _count(arrays)
    if runs is False or len(given) != wanted:  # weights of ids that have none
      return network().score(inputs)
    try:
      scores = call(on_device.parameters, on_device.tables, *given)
    except jax.errors.JaxRuntimeError:
      if runs:
        raise
      runs = False
      return network().score(inputs)
    runs = True
    return scores

  return score


def _count(arrays: _Arrays) -> int:
  return len(arrays.parameters) + len(arrays.tables)


def _build(
  path: Path, about: Mapping[str, Any], arrays: _Arrays, mesh: Mesh
) -> _Built:
  """Builds the network of an export from its config."""
  from dlrm_jax.checkpoint.moving import move
  from dlrm_jax.embedding.layout import layout_from_json
  from dlrm_jax.scoring.function import flat, probabilities
  from dlrm_jax.scoring.parameters import layers_of, tables_of

  network = network_of(path, about['run'])
  if mesh.size == 1:
    network = flat(network)
  layout = network.collection.layout
  stored = layout_from_json(
    about['layout'], [s.storage for s in layout.stacks.values()]
  )
  with sharding.use(mesh):
    copied = sharding.sharding_of(sharding.COPIED)
    layers = jax.device_put(layers_of(arrays.parameters), copied)
    tables = tables_of(arrays.tables)
    if mesh.size == 1 and stored == layout:
      tables = jax.device_put(tables)
    else:
      tables = move(tables, stored, wanted_tables(network), layout)
    compiled = jax.jit(
      lambda layers, tables, inputs: probabilities(
        network, layers, tables, inputs
      ),
      out_shardings=sharding.sharding_of(sharding.SPLIT),
    )
  return _Built(
    *(network, layers, tables),
    lambda inputs: compiled(layers, tables, inputs),
  )


def network_of(path: Path, run: Mapping[str, Any]) -> 'Network':
  """The network of a config, as it was trained."""
  from ml_collections import ConfigDict

  from dlrm_jax.build.network import build_network
  from dlrm_jax.config.kinds import completed
  from dlrm_jax.configs import default
  from dlrm_jax.data.schema import Scale, Schema

  defaults = default.get_config().to_dict()
  config = ConfigDict(completed(run['config'], defaults, path / files.MODEL))
  scale = Scale(**{k: tuple(v) for k, v in run['data']['scale'].items()})
  return build_network(config, Schema.from_json(run['data']), scale)


def wanted_tables(network: 'Network') -> Any:
  """Shapes, dtypes and shardings of the tables on the mesh in use."""
  collection = network.collection
  shapes = jax.eval_shape(collection.init, jax.random.key(0))
  return jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.sharding_of(spec)
    ),
    shapes,
    collection.specs,
  )


def load_export(path: Path) -> Model:
  """Loads an export.

  Raises:
    InputError: it is damaged, or of a newer version.
  """
  about = files.read_description(path)
  run = about['run']
  card = Card(
    *(str(path), run['step'], run['metrics'], run['config'], run['data']),
    about['inputs']['id_weights'],
  )
  arrays = _Arrays(files.read_parameters(path), files.map_tables(path, about))
  shards = run['config']['tables']['shards']
  mesh = sharding.choose_mesh(shards, {})
  network = once(lambda: _build(path, about, arrays, mesh))
  score = network().score if mesh.size > 1 else _program(path, arrays, network)

  def learned() -> 'Learned':
    from dlrm_jax.scoring.learned import Learned

    found = network()
    return Learned(found.network, found.layers, found.tables, mesh)

  def intake() -> 'Intake':
    from dlrm_jax.scoring.intake import from_json

    if about['raw'] is None:
      raise InputError(f'{path}: exported without vocabularies')
    return from_json(about['raw'], path / files.VOCABULARY)

  return Model(card, Scorer(score, mesh), intake, learned)
