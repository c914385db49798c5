r"""How evenly devices are loaded by the real ids of a prepared set.

  python -m benchmarks.imbalance data/kaggle --devices=8

Counted for each device over the batches of training: the ids that it is read
for, and the distinct rows that it serves (each device asks for a row once a
batch, however often it needs it).
"""

import argparse
import importlib
import itertools

import jax
import numpy as np

from benchmarks import machine
from dlrm_jax.batch import Batch
from dlrm_jax.build.data import open_data
from dlrm_jax.build.task import build_task
from dlrm_jax.data.loader import Reading, training_batches
from dlrm_jax.embedding.collection import EmbeddingCollection
from dlrm_jax.embedding.layout import StackKind
from dlrm_jax.embedding.load import Workload, imbalance, layout_load
from dlrm_jax.training.memory import row_state


def served(
  collection: EmbeddingCollection, batch: Batch, devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ids and distinct rows that each device reads for a batch, i64[n] each."""
  ids, distinct = np.zeros((2, devices), np.int64)
  for name, bags in collection.rows(batch.inputs.ids).items():
    stack = collection.layout.stacks[name]
    rows = np.asarray(bags.rows)
    for asker, part in enumerate(np.split(rows, devices)):
      if stack.kind in (StackKind.REPLICATED, StackKind.INDEPENDENT):
        ids[asker] += np.sum(part >= 0)
        continue
      each = stack.rows // devices
      owners = part[part >= 0] // each
      ids += np.bincount(owners, minlength=devices)
      asked = np.unique(part[part >= 0]) // each
      distinct += np.bincount(asked, minlength=devices)
  return ids, distinct


def main() -> None:
  """Counts, and prints the most loaded device over the mean."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('data', help='a prepared set')
  parser.add_argument('--config', default='criteo_kaggle')
  parser.add_argument('--devices', type=int, default=8)
  parser.add_argument('--batch_sizes', type=int, nargs='+', default=[128, 8192])
  parser.add_argument('--steps', type=int, default=200)
  arguments = parser.parse_args()
  name, *variant = arguments.config.split(':')
  config = importlib.import_module(f'configs.{name}').get_config(*variant)
  config.data.dir, config.tables.shards = arguments.data, arguments.devices
  data, table = open_data(config), []
  for size in arguments.batch_sizes:
    config.train.batch_size = size
    task = build_task(config, data.schema, data.scale)
    collection = task.collection
    batches = training_batches(data.source('train'), Reading(size))
    ids, distinct = np.zeros((2, arguments.devices), np.int64)
    for batch in itertools.islice(batches, arguments.steps):
      more = served(collection, batch, arguments.devices)
      ids, distinct = ids + more[0], distinct + more[1]
    use = Workload(
      collection.hotness, size, arguments.devices, row_state(task.table_tx)
    )
    held = layout_load(collection.layout, use).rows
    copied = sum(t.placement.replicated for t in collection.tables)
    table.append(
      {
        'batch': size,
        'replicated tables': copied,
        'rows held': f'{imbalance(held):.3f}',
        'ids read': f'{imbalance(ids):.3f}',
        'distinct rows read': f'{imbalance(distinct):.3f}',
      }
    )
  machine.show('imbalance', table)


if __name__ == '__main__':
  with jax.default_device(jax.devices('cpu')[0]):
    main()
