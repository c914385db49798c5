"""Loads an export: its own program on one device, the network on several.

The network of int8 layers, too, as a program cannot choose what multiplies.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.extend
import numpy as np
from jax.sharding import Mesh

from dlrm_jax import sharding
from dlrm_jax.batch import Inputs
from dlrm_jax.scoring import export_folder
from dlrm_jax.scoring.model import Card, Model
from dlrm_jax.scoring.once import once
from dlrm_jax.scoring.scorer import Score, Scorer

if TYPE_CHECKING:
  from dlrm_jax.embedding.network import Network
  from dlrm_jax.scoring.engine import Engine
  from dlrm_jax.scoring.function import LoadedNetwork
  from dlrm_jax.scoring.intake import Intake


class _Arrays(NamedTuple):
  """The arrays of an export, by name."""

  parameters: Mapping[str, np.ndarray]
  tables: Mapping[str, np.ndarray]


class _Built(NamedTuple):
  """The network of an export, built from its config.

  Attributes:
    loaded: the network and its arrays.
    engine: the compiled network.
  """

  loaded: 'LoadedNetwork'
  engine: 'Engine'


def _platform() -> str:
  """The backend in use by the names of `jax.export`."""
  backend = jax.extend.backend.get_backend()
  if backend.platform != 'gpu':
    return backend.platform
  rocm = 'rocm' in backend.platform_version.lower()
  return 'rocm' if rocm else 'cuda'


def _program(
  path: Path, arrays: Callable[[], _Arrays], network: Callable[[], _Built]
) -> Score:
  """The exported program; the network in its place where that does not fit.

  Programs have a window of versions of JAX that can run them. The file is
  whole, as its digest says; so what cannot be read is of another version.

  Args:
    path: the folder.
    arrays: gives the arrays on the device.
    network: builds the network.
  """
  from jax import export

  def by_network(inputs: Inputs) -> jax.Array | np.ndarray:
    return network().engine.score(inputs)

  try:
    program = export.deserialize(
      bytearray((path / export_folder.NETWORK).read_bytes())
    )
  except (ValueError, AttributeError, NotImplementedError, struct.error):
    return by_network
  if _platform() not in program.platforms:
    return by_network
  parameters, tables = arrays()
  wanted = len(program.in_avals) - len(parameters) - len(tables)
  call = jax.jit(program.call)
  lowers: bool | None = None  # None: it was not tried

  def score(inputs: Inputs) -> jax.Array | np.ndarray:
    nonlocal lowers
    given = [x for x in inputs if x is not None]
    if len(given) != wanted:  # weights of ids, which the program does not take
      return by_network(inputs)
    if lowers is None:
      try:
        call.lower(parameters, tables, *given)
      except jax.errors.JaxRuntimeError:
        lowers = False
      else:
        lowers = True
    return call(parameters, tables, *given) if lowers else by_network(inputs)

  return score


def network_of_export(path: Path, about: Mapping[str, Any]) -> 'Network':
  """The network of an export, in the layout of its training.

  Args:
    path: the folder.
    about: its description.
  """
  from dlrm_jax.build.trained import network_of
  from dlrm_jax.config.kinds import completed
  from dlrm_jax.configs import default

  run, defaults = about['run'], default.get_config().to_dict()
  config = completed(run['config'], defaults, path / export_folder.MODEL)
  return network_of(config, run['data'])


def _build(
  path: Path, about: Mapping[str, Any], arrays: _Arrays, mesh: Mesh
) -> _Built:
  """Builds the network of an export from its config.

  Args:
    path: the folder.
    about: its description.
    arrays: its arrays, on the device where there is one.
    mesh: the devices.
  """
  from dlrm_jax.checkpoint.moving import move
  from dlrm_jax.embedding.layout import layout_from_json
  from dlrm_jax.scoring.engine import engine_of
  from dlrm_jax.scoring.function import LoadedNetwork, flat
  from dlrm_jax.scoring.parameters import layers_of, tables_of

  network = network_of_export(path, about)
  if mesh.size == 1:
    network = flat(network)
  layout = network.collection.layout
  stored = layout_from_json(about['layout'])
  with sharding.use(mesh):
    copied = sharding.sharding_of(sharding.COPIED)
    layers = jax.device_put(layers_of(arrays.parameters), copied)
    tables = tables_of(arrays.tables)
    if mesh.size > 1 or stored != layout:
      tables = move(tables, stored, wanted_tables(network), layout)
    engine = engine_of(network, layers, tables)
  return _Built(LoadedNetwork(network, layers, tables, mesh), engine)


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
  about = export_folder.read_description(path)
  with export_folder.reading(path):
    run, inputs = about['run'], about['inputs']
    card = Card(
      folder=str(path),
      step=run['step'],
      metrics=run['metrics'],
      name=about['model'],
      data=run['data'],
      out_of_range=about['out_of_range'],
      means=tuple(inputs['means']),
      weighted=inputs['id_weights'],
    )
    if list(card.schema.labels) != about['labels']:
      raise KeyError('labels')
    on_host = _Arrays(
      export_folder.read_parameters(path),
      export_folder.map_tables(path, about),
    )
    mesh = sharding.choose_mesh(about['shards'], {})
  on_device = once(lambda: jax.device_put(on_host))
  arrays = on_device if mesh.size == 1 else lambda: on_host
  network = once(lambda: _build(path, about, arrays(), mesh))
  # Of int8 layers, it depends on the device what multiplies them.
  of_codes = run['config']['model'].get('compute_dtype') == 'int8'
  if mesh.size > 1 or of_codes:
    score, engine = network().engine
  else:
    score, engine = _program(path, arrays, network), ''

  def intake() -> 'Intake':
    from dlrm_jax.scoring.intake import from_json

    with export_folder.reading(path):
      return from_json(about['raw'], path / export_folder.VOCABULARY)

  return Model(
    card, Scorer(score, mesh), intake, lambda: network().loaded, engine
  )
