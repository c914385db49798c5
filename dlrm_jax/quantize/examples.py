"""The examples that choices are measured on, and layers calibrated."""

import argparse

from dlrm_jax.batch import Batch
from dlrm_jax.build.chosen import ChosenRun
from dlrm_jax.build.restored import examined
from dlrm_jax.data.loader import stream_batches
from dlrm_jax.data.schema import Block, Schema
from dlrm_jax.quantize.flags import SPLIT
from dlrm_jax.run.sample import take_sample

_BATCH = 4096


def sample(
  flags: argparse.Namespace, chosen: ChosenRun, split: str | None
) -> Block:
  """Examples of a split, or of raw files; prints what was read.

  Args:
    flags: what the user asks for.
    chosen: the run.
    split: name of the split; None or '': the default, or none of raw files.

  Raises:
    InputError: there are no such data, or no example in them.
  """
  run = chosen.run
  opened = examined(
    run,
    flags.data,
    split,
    run.eval_batch_size,
    flags.on_bad_row,
    default=SPLIT,
  )
  taken = take_sample(opened.batches, flags.examples)
  met = opened.report()
  met.check(taken.of if taken else 0, opened.name)
  assert taken is not None
  print(
    *met.lines,
    f'examples  {len(taken.examples.labels):,} of {taken.of:,} of '
    f'{opened.name}',
    sep='\n',
    flush=True,
  )
  return taken.examples


def batches_of(chosen: ChosenRun, examples: Block) -> list[Batch]:
  """Examples in batches of equal size."""
  schema = Schema.from_json(chosen.run.data)
  size = min(_BATCH, len(examples.labels))
  return list(stream_batches([examples], schema, size))
