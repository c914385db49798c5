"""Functions of JAX and their graphs give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dlrm_jax.graph import trace
from dlrm_jax.graph.builder import Builder, NoOperator, Place
from dlrm_jax.graph.operators import RULES
from dlrm_jax.models.interaction import dot_interaction
from dlrm_jax.models.product import product
from tests.graph import graphs

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

RANDOM = np.random.default_rng(0)
W = RANDOM.normal(size=(6, 4)).astype(np.float32)
TABLE = RANDOM.normal(size=(11, 3)).astype(np.float32)
ROW = np.arange(6, dtype=np.float32)
BATCH = {
  'x': RANDOM.normal(size=(5, 6)).astype(np.float32),
  'y': RANDOM.normal(size=(5, 2, 6)).astype(np.float32),
  'ids': np.int32([[0, 10], [-1, 3], [11, 2], [-12, 5], [2**31 - 1, 1]]),
  'words': RANDOM.integers(0, 2**32, (5, 3), np.uint32),
}
FUNCTIONS = {
  'add': lambda x: x + ROW[None],
  'sub, mul, div, neg': lambda x: -(x - 2.0) * ROW[None] / (x * x + 1.0),
  'div, rem of integers': lambda ids: ids // jnp.int32(3) + ids % jnp.int32(7),
  'lax.div, lax.rem': lambda ids: lax.div(ids, jnp.full_like(ids, -3))
  - lax.rem(ids, jnp.full_like(ids, 5)),
  'unsigned': lambda words: (words * jnp.uint32(2654435769)) % jnp.uint32(97),
  'shift, xor': lambda words: (words >> jnp.uint32(5)) ^ words,
  'bits': lambda words: (words & jnp.uint32(255)) | jnp.uint32(3),
  'compare unsigned': lambda words: words > jnp.uint32(2**31),
  'convert': lambda ids: ids.astype(jnp.float32) * 0.5,
  'logical': lambda x: (x > 0) & (x < 1) | (x == 0) & ~(x <= -1) ^ (x >= 0.5),
  'unequal': lambda ids: (ids != 3).astype(jnp.int32),
  'where': lambda x: jnp.where(x > 0, x, ROW[None]),
  'clamp': lambda x: lax.clamp(-0.5, x, 0.5),
  'max, min': lambda x: jnp.maximum(x, 0.5) + jnp.minimum(x, ROW[None]),
  'relu': jax.nn.relu,
  'sigmoid, tanh': lambda x: jax.nn.sigmoid(x) + jnp.tanh(x),
  'exp, log': lambda x: jnp.log(jnp.exp(x) + jnp.abs(x)),
  'log_sigmoid': lambda x: jax.nn.log_sigmoid(30 * x),
  'logsumexp': lambda x: jax.scipy.special.logsumexp(9 * x, axis=1),
  'softmax': lambda x: jax.nn.softmax(x, -1),
  'powers': lambda x: jnp.sqrt(jnp.square(x)) + x**3 + lax.rsqrt(x * x + 1),
  'sign, finite': lambda x: jnp.where(jnp.isfinite(1 / x), jnp.sign(x), x),
  'sums': lambda y: jnp.sum(y, 1) + jnp.max(y, 1) - jnp.min(y, 1),
  'mean of a broadcast': lambda x: jnp.mean(
    jnp.broadcast_to(x[:, None], (x.shape[0], 3, 6)), 1
  ),
  'new axes': lambda x: x[:, None] * ROW[None, :, None],
  'reshape': lambda y: y.reshape(y.shape[0], -1)[:, :7],
  'transpose': lambda y: y.transpose(0, 2, 1),
  'slice': lambda y: lax.slice_in_dim(y, 1, 5, 2, axis=2) + y[:, :, 2:4],
  'index': lambda y: y[:, 1],
  'squeeze': lambda y: jnp.squeeze(y[:, :1], 1),
  'concatenate': lambda x, y: jnp.concatenate([x[:, None], y], 1),
  'beside nothing': lambda x: jnp.concatenate([x, x[:, :0]], 1),
  'stack': lambda x: jnp.stack([x, 2 * x], 1),
  'split': lambda x: jnp.multiply(*jnp.split(x, 2, 1)),
  'columns': lambda x: x[:, jnp.array([4, 0, 4])],
  'columns beside others': lambda x, y: jnp.concatenate(
    [x[:, jnp.array([5, 1])], y[:, 0], x[:, jnp.array([2])]], 1
  ),
  'product': lambda x: x @ W,
  'product of bfloat16': lambda x: product(x, W, jnp.bfloat16),
  'products of vectors': lambda y: y @ W,
  'products by example': lambda y: jnp.einsum('bid,bjd->bij', y, y),
  'interaction': dot_interaction,
  'rows, or zeros': lambda ids: jnp.asarray(TABLE).at[ids].get(
    mode='fill', fill_value=0
  ),
  'rows, or the nearest': lambda ids: jnp.take(TABLE, ids, axis=0, mode='clip'),
  'rows, or NaN': lambda ids: jnp.take(TABLE, ids, axis=0),
  'rows': lambda ids: jnp.asarray(TABLE).at[jnp.abs(ids % jnp.int32(11))].get(
    mode='promise_in_bounds'
  ),
}  # fmt: skip


def function_and_batch(name):
  """A function of a batch, and the batch that it takes."""
  function = FUNCTIONS[name]
  if name in ('relu', 'interaction'):
    names = ['y' if name == 'interaction' else 'x']
  else:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
  batch = {name: BATCH[name] for name in names}
  return lambda _, batch: function(*(batch[n] for n in names)), batch


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_graph_gives_what_the_function_gives(name):
  function, batch = function_and_batch(name)
  graphs.assert_same(function, (), batch, rtol=1e-5)


def test_every_rule_is_tried_here(monkeypatch):
  used = set()

  class Noting(dict):
    def __getitem__(self, name):
      used.add(name)
      return super().__getitem__(name)

  monkeypatch.setattr(trace, 'RULES', Noting(RULES))
  for name in FUNCTIONS:
    function, batch = function_and_batch(name)
    graphs.model(function, (), batch)
  # Of JAX versions, some write a copy, or a power, otherwise.
  assert RULES.keys() - used <= {'copy', 'integer_pow', 'square', 'stack'}


def test_constants_are_computed_and_equal_ones_kept_once():
  def function(constants, batch):
    doubled = 2 * constants['w'] @ constants['w'].T
    return batch['x'] @ doubled + batch['x'] @ (2 * constants['w'] @ W.T)

  batch = {'x': BATCH['x']}
  made = graphs.model(function, {'w': W}, batch)
  assert [x.op_type for x in made.graph.node].count('MatMul') == 2
  assert len(made.graph.initializer) == 1
  graphs.assert_same(function, {'w': W}, batch, rtol=1e-4)


def test_what_is_not_needed_is_left_out():
  batch = {'x': BATCH['x'], 'y': BATCH['y']}
  made = graphs.model(lambda _, b: (b['y'] * 2, b['x'] + 1.0)[1], (), batch)
  assert [x.name for x in made.graph.input] == ['x']
  assert [x.op_type for x in made.graph.node] == ['Add', 'Identity']


def test_arrays_in_files_stay_there(tmp_path):
  import onnx

  path = tmp_path / 'table.bin'
  path.write_bytes(b'head' + TABLE.tobytes())

  def place(array):
    same = array.dtype == TABLE.dtype and array.size == TABLE.size
    return Place('table.bin', 4, TABLE.nbytes) if same else None

  batch = {'ids': np.array([[3], [10]], np.int32)}
  made = trace.model_of(
    lambda table, b: table.reshape(-1, 3).at[b['ids'][:, 0]].get(mode='clip'),
    TABLE.reshape(1, -1),
    {'ids': ((1,), np.int32)},
    'result',
    Builder(place=place),
  )
  (found,) = [
    x for x in made.graph.initializer
    if x.data_location == onnx.TensorProto.EXTERNAL
  ]  # fmt: skip
  assert list(found.dims) == [11, 3]
  onnx.save(made, tmp_path / 'graph.onnx')
  import onnxruntime

  opened = onnxruntime.InferenceSession(tmp_path / 'graph.onnx')
  np.testing.assert_array_equal(opened.run(None, batch)[0], TABLE[[3, 10]])


@pytest.mark.parametrize(
  ('function', 'words'),
  [
    (lambda x: jnp.sort(x, 1), 'the operation sort'),
    (lambda x: jnp.cumsum(x, 1), 'the operation cumsum'),
    (lambda x: jnp.vdot(x[:, 1:], x[:, :-1])[None], 'dot_general of'),
    (
      lambda x: jnp.concatenate([x, jnp.ones((x.shape[0], 1))], 1),
      'a constant',
    ),
  ],
)
def test_what_has_no_operator_is_named(function, words):
  with pytest.raises(NoOperator, match=words):
    graphs.model(lambda _, b: function(b['x']), (), {'x': BATCH['x']})
