"""Every encoding, placement, pooling, storage, optimizer on 1 to 8 devices.

A few models mix them all, each on some devices with some optimizer, so that
any two choices meet in one; a short reference in numpy says what is right.
"""

import collections
import dataclasses
import functools
import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax import sharding
from dlrm_jax.batch import PAD, Inputs
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.encoder import encode
from dlrm_jax.embedding.features import Feature, Pooling
from dlrm_jax.embedding.layout import StackKind
from dlrm_jax.embedding.low_precision import STATES, STORAGES, Codes
from dlrm_jax.embedding.storage import FLOAT32
from dlrm_jax.embedding.table import Placement
from dlrm_jax.errors import InputError
from dlrm_jax.optim.adagrad import scale_by_adagrad, scale_by_rowwise_adagrad
from dlrm_jax.optim.rowwise import rowwise
from tests.embedding import encodings, reference

# A step is far larger than what rounding can grow to in a few of them.
SHARDS, BATCH, RATE = 8, 32, 0.05
PLACEMENTS = {
  'row': Placement(),
  'table': Placement(spread=1),
  'table_row': Placement(spread=2),
  'column': Placement(spread=1, columns=2),
  'grid': Placement(spread=4, columns=2),
  'replicated': Placement(replicated=True),
  'independent': Placement(independent=True),
}
OPTIMIZERS = {
  'sgd': optax.identity,
  'adagrad': scale_by_adagrad,
  'rowwise_adagrad': scale_by_rowwise_adagrad,
  'adam': optax.scale_by_adam,
}
DEVICES = 1, 2, 4, 8
BAGS = (1, Pooling.SUM), (3, Pooling.SUM), (2, Pooling.MEAN)

# The storage of a table, by its placement, and by group and part of its model:
# so any two choices meet.
CYCLE = 'int4', 'int2', 'float32', 'float16', 'bfloat16', 'int8'
BY_PLACEMENT = dict(zip(PLACEMENTS, (0, 0, 0, 1, 1, 2, 2), strict=True))
BY_GROUP = dict(zip(encodings.groups(), (0, 1, 2, 4), strict=True))
BY_PART = 0, 3, 0, 3


class Encoder(nn.Module):
  """The vectors of a batch; has the layers that encodings have."""

  collection: EmbeddingCollection

  @nn.compact
  def __call__(self, vectors, ids, id_weights):
    inputs = Inputs(jnp.zeros((len(ids), 0)), ids, id_weights)
    return encode(self.collection, vectors, inputs)['vectors']


class Model(NamedTuple):
  """Features of every placement, and their definitions."""

  dim: int
  collection: EmbeddingCollection
  compositions: tuple[reference.Composition, ...]
  ids: tuple[int, ...]
  params: dict

  @property
  def features(self):
    return self.collection.features

  def draw(self, seed):
    rng = np.random.default_rng(seed)
    ids = np.concatenate(
      [
        rng.integers(-1, n, (BATCH, f.hotness))
        for f, n in zip(self.features, self.ids, strict=True)
      ],
      1,
    ).astype(np.int32)
    ids[0] = PAD  # an example of empty bags only
    ids[5:9] = ids[5]  # repeats
    shape = BATCH, len(self.features), self.dim
    target = rng.normal(size=shape).astype(np.float32)
    return ids, rng.random(ids.shape, np.float32), target


def kept_as(storage, state, table):
  """A table in another storage, where codes fill the bytes of its rows."""
  try:
    storage.leaves(table.dim // table.placement.columns)
  except InputError:
    storage = FLOAT32
  return dataclasses.replace(table, storage=storage, state=state)


def make_features(group, part, state):
  """A quarter of all placements of each encoding, with one kind of bag or more.

  Over all four parts every placement has every encoding. The first encoding
  also has two features that share its tables.

  Args:
    group: name of the encodings.
    part: which quarter of the combinations, 0 to 3.
    state: name of the storage of the optimizer's state.

  Returns:
    For each feature itself and the definition of its encoding.
  """
  dim, made = encodings.groups()[group]
  shift = BY_PART[part] + BY_GROUP[group]
  features = []
  for p, (where, placement) in enumerate(PLACEMENTS.items()):
    name = CYCLE[(BY_PLACEMENT[where] + shift) % len(CYCLE)]
    keep = functools.partial(kept_as, STORAGES[name], STATES[state])
    for e, (name, make) in enumerate(made.items()):
      if (e + p) % len(DEVICES) != part:
        continue
      table = f'{where} {name.removesuffix(" again")}'
      case = make(table, dim, placement)
      encoding = case.encoding.placed(keep)
      kinds = BAGS[1:] if e == 0 else (BAGS[(e + p) % len(BAGS)],)
      for hotness, pooling in kinds:
        title = f'{where}, {name}, {hotness}'
        feature = Feature(title, encoding, hotness, pooling)
        features.append((feature, dataclasses.replace(case, encoding=encoding)))
  return features


@functools.cache
def make_model(group, part, state):
  """A model of the features; arguments as `make_features` has them."""
  features, cases = zip(*make_features(group, part, state), strict=True)
  collection = EmbeddingCollection(tuple(features), SHARDS)
  params = fixed_layers(collection)
  compositions = tuple(case.composition(params) for case in cases)
  ids = tuple(case.ids for case in cases)
  dim = features[0].encoding.dim
  return Model(dim, collection, compositions, ids, params)


def fixed_layers(collection):
  """Random numbers for all parameters, biases too."""
  ids = jnp.zeros((1, sum(f.hotness for f in collection.features)), jnp.int32)
  vectors = collection.empty_vectors()
  init = functools.partial(Encoder(collection).init, jax.random.key(0))
  shapes = jax.eval_shape(init, vectors, ids, None).get('params', {})
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: rng.uniform(-0.7, 0.7, x.shape).astype(np.float32), shapes
  )


def send(batch):
  where = sharding.sharding_of(sharding.SPLIT)
  return jax.tree.map(lambda x: jax.device_put(x, where), batch)


def step(model, tx, tables, state, batch, key):
  collection, (ids, id_weights, target) = model.collection, batch
  rows = collection.rows(ids, id_weights)
  vectors = collection.lookup(tables, rows)

  def loss(vectors):
    layers = {'params': jax.tree.map(jnp.asarray, model.params)}
    encoded = Encoder(collection).apply(layers, vectors, ids, id_weights)
    return jnp.mean(jnp.sum(jnp.sin(encoded) * target, (1, 2))), encoded

  grads, encoded = jax.grad(loss, has_aux=True)(vectors)
  made = collection.update(tx, tables, state, rows, grads, key)
  return *made[:2], encoded, {stack: bags.rows for stack, bags in rows.items()}


class Reference:
  """One copy of some of the tables: of those that all nodes learn, or one.

  Attributes:
    model: the model.
    node: number of the node; None: tables that all nodes learn.
    tables: by name f64[R, D], as they are kept.
  """

  def __init__(self, model, first, optimizer, node=None):
    self.model, self.node = model, node
    mine = [
      (number, t)
      for number, t in enumerate(model.collection.tables)
      if t.placement.independent is (node is not None)
    ]
    self.tables = {t.name: first[t.name, node] for _, t in mine}
    self.optimizers = {
      t.name: reference.Optimizer(optimizer, RATE, t, number, node)
      for number, t in mine
    }
    self.features = [
      f for f, c in enumerate(model.compositions) if c.tables[0] in self.tables
    ]

  def step(self, out, ids, id_weights, target, key):
    """Writes its vectors of the examples, and learns from their mean."""
    by_row = {name: {} for name in self.tables}
    bags = reference.bags(self.model.features, ids, id_weights)
    for x, of_example in enumerate(bags):
      for f in self.features:
        composition, bag = self.model.compositions[f], of_example[f]
        made = reference.vector(composition, self.tables, bag, self.model.dim)
        out[x, f] = made
        g = np.cos(made) * target[x, f] / len(target)
        for name, row, grad in reference.gradients(
          composition, self.tables, bag, g
        ):
          by_row[name][row] = by_row[name].get(row, 0) + grad
    for name, optimizer in self.optimizers.items():
      optimizer.move(self.tables[name], by_row[name], key)

  def compare(self, found):
    """Whether tables and states are those found; goes on with the latter.

    What is random may be rounded otherwise, to the next number, as the number
    to round is not quite the same.

    Args:
      found: as `logical` gives it, of the tables and of each part of the state.

    Returns:
      Arrays of bool, for each number whether it is that found.
    """
    same = []
    for name, optimizer in self.optimizers.items():
      kinds = [optimizer.table.storage, *[optimizer.table.state] * len(found)]
      wanted = self.tables[name], *optimizer.states
      for kind, want, arrays in zip(kinds, wanted, found, strict=False):
        now, largest = arrays[name, self.node], np.abs(want).max()
        close = 1e-4 * (largest if want is not self.tables[name] else 1)
        same.append(np.isclose(now, want, rtol=1e-3, atol=close).reshape(-1))
        assert same[-1].all() or kind is not FLOAT32, name
        # Codes of 2 bits are a third of a row's range apart.
        close += np.ptp(want) / 3 if isinstance(kind, Codes) else 0
        np.testing.assert_allclose(now, want, 2**-6, close, err_msg=name)
        want[...] = now
    return same


def logical(layout, family):
  """Tables as arrays f64[R, D], by name and number of the copy, or None.

  One number a row is repeated for the columns of its block.

  Args:
    layout: of tables, or of their state.
    family: by stack what its storage keeps.
  """
  values = {
    name: np.asarray(stack.storage.values(family[name], stack.dim), np.float64)
    for name, stack in layout.stacks.items()
  }
  values = {
    name: x if x.ndim > 1 else np.repeat(x[:, None], layout.stacks[name].dim, 1)
    for name, x in values.items()
  }
  found = {}
  for name, blocks in layout.blocks.items():
    rows = np.arange(layout.rows[name])
    stack = layout.stacks[blocks[0].stack]
    own = stack.kind is StackKind.INDEPENDENT
    for node in range(stack.shards) if own else (None,):
      parts = [values[b.stack][layout.locate(b, rows, node)] for b in blocks]
      found[name, node] = np.concatenate(parts, 1)
  return found


def families(tx, tables, state):
  """Arrays with rows by stack: of the tables, and of each part of the state."""
  found = collections.defaultdict(list)
  optax.tree.map_params(
    tx.init,
    lambda x, stack: found[stack].append(x),
    state,
    {stack: stack for stack in tables},
  )
  count = len(found[next(iter(tables))])
  return [tables, *({s: found[s][i] for s in tables} for i in range(count))]


def check_untouched(layout, before, after, rows):
  """What the batch did not read keeps its bits; most of the rest moves."""
  for name, stack in layout.stacks.items():
    read = np.isin(np.arange(stack.rows), rows[name])
    moved = np.zeros(stack.rows, bool)
    then, now = (
      jax.tree.leaves(stack.storage.unpack(tree[name], stack.dim))
      for tree in (before, after)
    )
    for old, new in zip(then, now, strict=True):
      moved |= (old != new).reshape(stack.rows, -1).any(1)
    assert not moved[~read].any(), name
    assert moved[read].mean() > 0.5, name


def prepared(model, tx):
  """First tables and state, and the step, on the devices in use."""
  collection = model.collection
  where = jax.tree.map(sharding.sharding_of, collection.specs)
  init = jax.jit(collection.init, out_shardings=where)
  tables = init(jax.random.key(0))
  state = collection.init_state(tx, tables)
  state_where = jax.tree.map(
    sharding.sharding_of, collection.state_specs(tx, state)
  )
  run = jax.jit(
    functools.partial(step, model, tx),
    out_shardings=(where, state_where, None, None),
    donate_argnums=(0, 1),
  )
  return tables, jax.device_put(state, state_where), run


def covering():
  """Each group, optimizer and number of devices once with each other.

  Yields:
    Group, optimizer, devices, quarter of the placements, storage of the state.
  """
  for g, group in enumerate(encodings.groups()):
    for d, devices in enumerate(DEVICES):
      optimizer = [*OPTIMIZERS][(g + d) % len(OPTIMIZERS)]
      yield group, optimizer, devices, d, [*STATES][(g + d // 3) % len(STATES)]


def test_any_two_choices_meet_in_a_model():
  """But for codes that do not fill the bytes of any row of an encoding."""
  met, possible = set(), {}
  for group, optimizer, devices, part, state in covering():
    for feature, _ in make_features(group, part, state):
      where, encoding, _ = feature.name.split(', ')
      for table in feature.encoding.tables:
        width = table.dim // table.placement.columns
        fits = {x for x, s in STORAGES.items() if fits_bytes(s, width)}
        possible.setdefault((group, encoding), set()).update(fits)
        chosen = {
          'encoding': (group, encoding),
          'placement': where,
          'storage': table.storage.name,
          'state': state,
          'optimizer': optimizer,
          'devices': devices,
        }
        met.update(itertools.combinations(chosen.items(), 2))
  choices = {
    'encoding': possible,
    'placement': PLACEMENTS,
    'storage': STORAGES,
    'state': STATES,
    'optimizer': OPTIMIZERS,
    'devices': DEVICES,
  }
  for first, second in itertools.combinations(choices, 2):
    for a, b in itertools.product(choices[first], choices[second]):
      pair = (first, a), (second, b)
      never = second == 'storage' and b not in possible.get(a, STORAGES)
      assert never or pair in met, pair


def fits_bytes(storage, width):
  try:
    return bool(storage.leaves(width))
  except InputError:
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
  ('group', 'optimizer', 'devices', 'part', 'kept'), [*covering()]
)
@jax.numpy_dtype_promotion('standard')  # Optax's Adam needs it
def test_all_are_what_they_are_by_definition(
  group, optimizer, devices, part, kept
):
  model = make_model(group, part, kept)
  layout = model.collection.layout
  layouts = layout, layout.of_state, layout.of_state
  weighted = devices in (1, 4)
  tx = rowwise(optax.chain(OPTIMIZERS[optimizer](), optax.scale(-RATE)))

  def draw(seed):
    ids, id_weights, target = model.draw(seed)
    return ids, id_weights if weighted else None, target

  def values(arrays):
    return [logical(*pair) for pair in zip(layouts, arrays, strict=False)]

  with sharding.use(sharding.make_mesh(jax.devices()[:devices])):
    tables, state, run = prepared(model, tx)
    before = jax.tree.map(np.array, families(tx, tables, state))
    first, *_ = values(before)
    copies = [
      Reference(model, first, optimizer, node)
      for node in (None, *range(SHARDS))
    ]
    for seed in range(3):
      ids, id_weights, target = batch = draw(seed)
      key = np.uint32(seed)
      tables, state, encoded, rows = run(tables, state, send(batch), key)
      vectors = np.zeros(target.shape)
      for copy in copies:
        own = slice(None)
        if copy.node is not None:
          size = BATCH // SHARDS
          own = slice(copy.node * size, (copy.node + 1) * size)
        weights = None if id_weights is None else id_weights[own]
        copy.step(vectors[own], ids[own], weights, target[own], seed)
      np.testing.assert_allclose(encoded, vectors, rtol=1e-3, atol=1e-4)
      after = jax.tree.map(np.array, families(tx, tables, state))
      for about, then, now in zip(layouts, before, after, strict=False):
        check_untouched(about, then, now, jax.device_get(rows))
      found = values(after)
      same = [x for copy in copies for x in copy.compare(found)]
      assert np.mean(np.concatenate(same)) > 0.999
      before = after
