"""Our lookup and update. A contender: run by `benchmarks.{lookup,update}`."""

import argparse
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import pooled
from benchmarks.serving import serve
from dlrm_jax import native
from dlrm_jax.embedding.collection import EmbeddingCollection, Tables, Vectors
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.features import Feature
from dlrm_jax.embedding.table import Table
from dlrm_jax.heap import keep_freed_memory
from dlrm_jax.optim.adagrad import EPS, scale_by_rowwise_adagrad
from dlrm_jax.optim.fused import Fused
from dlrm_jax.optim.rowwise import rowwise


def main() -> None:
  """Serves measurements of the lookup, with or without an update."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--shape', required=True)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--optimizer', default='', help='none: lookup only')
  arguments = parser.parse_args()
  keep_freed_memory()
  shape = pooled.SHAPES[arguments.shape]
  collection = EmbeddingCollection(
    tuple(
      Feature(f'f{i}', Plain(Table(f't{i}', rows, shape.dim)), shape.length)
      for i, rows in enumerate(shape.rows)
    )
  )
  tables = jax.jit(collection.init)(jax.random.key(0))
  transform, kind = optax.identity(), native.Kind.SGD
  if arguments.optimizer == pooled.ADAGRAD:
    transform, kind = scale_by_rowwise_adagrad(), native.Kind.ROWWISE_ADAGRAD
  tx = rowwise(
    optax.chain(transform, optax.scale_by_learning_rate(pooled.RATE)),
    Fused(kind, pooled.RATE, EPS),
  )
  table_state = collection.init_state(tx, tables)
  batches = itertools.cycle(
    [
      jnp.array(ids.swapaxes(0, 1).reshape(arguments.batch, -1))
      for ids in pooled.draw(shape, arguments.batch, 8)
    ]
  )

  @jax.jit
  def look_up(tables: Tables, ids: jax.Array) -> Vectors:
    return collection.lookup(tables, collection.rows(ids))

  def look_up_and_update(
    state: tuple[Tables, Any], ids: jax.Array
  ) -> tuple[tuple[Tables, Any], Vectors]:
    rows = collection.rows(ids)
    vectors = collection.lookup(state[0], rows)
    # The gradient of half the sum of their squares is the vectors.
    return collection.update(tx, *state, rows, vectors)[:2], vectors

  update = jax.jit(look_up_and_update, donate_argnums=0)
  state = tables, table_state

  def measure() -> dict[str, float]:
    nonlocal state
    vectors: Vectors = {}
    start = time.perf_counter()
    for _ in range(arguments.steps):
      if arguments.optimizer:
        state, vectors = update(state, next(batches))
      else:
        vectors = look_up(state[0], next(batches))
    jax.block_until_ready((state, vectors))
    return {'ms': (time.perf_counter() - start) / arguments.steps * 1e3}

  measure()
  serve(measure)


if __name__ == '__main__':
  main()
