r"""int8 layers of a trained model: their quality and their time.

  python -m benchmarks.int8_layers --workdir=runs/kaggle

Prints the squared error of the logits and the change of the AUC on split test,
calibrated on split validation; then times of the whole network by XLA and by
onnxruntime. All take turns; a time is the median over rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from dlrm_jax import sharding
from dlrm_jax.batch import Batch, Inputs
from dlrm_jax.build.chosen import ChosenRun, choose
from dlrm_jax.build.restored import examined
from dlrm_jax.build.trained import network_of
from dlrm_jax.configs import default
from dlrm_jax.embedding.network import Layers, Network
from dlrm_jax.export.onnx_network import write_onnx
from dlrm_jax.export.write import write_tables
from dlrm_jax.quantization.layers import calibrate, quantize_layers
from dlrm_jax.quantization.method import Method
from dlrm_jax.scoring.function import flat
from dlrm_jax.scoring.parameters import flat_layers, on_host
from dlrm_jax.training.state import TrainState

_BATCH = 2048
_MODELS: dict[str, dict[str, Any]] = {
  'float32': {},
  'bfloat16': {'compute_dtype': 'bfloat16'},
  'int8': {'compute_dtype': 'int8'},
  **{
    f'int8, calibrated by {method.value}': {
      'compute_dtype': 'int8',
      'activations': 'calibrated',
      'method': method,
    }
    for method in Method
  },
  **{
    f'int8, {count} outliers': {'compute_dtype': 'int8', 'outliers': count}
    for count in (4, 16)
  },
}


class _Variant(NamedTuple):
  """A network and its layers."""

  network: Network
  layers: Layers


def _variant(
  chosen: ChosenRun, state: TrainState, batches: list[Batch], **fields: Any
) -> _Variant:
  """The model with other fields of `config.model`."""
  method = fields.pop('method', Method.MIN_MAX)
  config = chosen.run.config.copy_and_resolve_references()
  config.model.update(fields)
  network = network_of(config.to_dict(), chosen.run.data)
  if fields.get('compute_dtype') != 'int8':
    return _Variant(network, state.layers)
  like = jax.eval_shape(lambda: network.init(jax.random.key(0))).params
  arrays = chosen.run.task.network, state.layers, state.tables
  ranges = calibrate(*arrays, batches, method, config.model.outliers)
  params = quantize_layers(state.params, like, ranges)
  params = jax.tree.map(jnp.asarray, params)
  return _Variant(network, Layers(params, state.statistics))


def _in_onnxruntime(
  chosen: ChosenRun, variant: _Variant, folder: Path
) -> Callable[[Inputs], Any]:
  """The network in onnxruntime, on as many threads as there are cores."""
  import onnxruntime

  network = flat(variant.network)
  parameters = on_host(flat_layers(variant.layers))
  folder.mkdir()
  save_file(parameters, folder / 'parameters.safetensors')
  files = write_tables(chosen, network, folder / 'tables')
  write_onnx(folder, network, files, weighted=False)
  session = onnxruntime.InferenceSession(folder / 'network.onnx')
  return lambda inputs: session.run(
    None, {'dense': np.asarray(inputs.dense), 'ids': np.asarray(inputs.ids)}
  )


def _print_quality(
  variants: dict[str, _Variant], state: TrainState, batches: list[Batch]
) -> None:
  """A line for each model; the first one is the reference."""
  counts = np.concatenate([np.asarray(b.weights) for b in batches]) > 0
  labels = np.concatenate([np.asarray(b.labels)[:, 0] for b in batches])

  def logits(variant: _Variant) -> np.ndarray:
    score = jax.jit(variant.network.outputs)
    found = [
      score(variant.layers, state.tables, sharding.send(b.inputs))
      for b in batches
    ]
    return np.concatenate([np.asarray(x)[:, 0] for x in found])[counts]

  reference = logits(variants['float32'])
  auc = float(roc_auc_score(labels[counts], reference))
  print(f'AUC {auc:.5f}, variance of logits {reference.var():.4f}')
  for name, variant in variants.items():
    found = logits(variant)
    error = np.mean((found - reference) ** 2) / reference.var()
    change = roc_auc_score(labels[counts], found) - auc
    print(f'{name:36} squared error {error:8.1e}  AUC {change:+.1e}')


def _print_times(
  contenders: dict[str, Callable[[Inputs], Any]],
  inputs: Inputs,
  sizes: list[int],
  rounds: int,
) -> None:
  """A line for each size of a batch."""
  for size in sizes:
    piece = jax.tree.map(lambda x: x[:size], inputs)  # noqa: B023
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
      for name, score in contenders.items():
        start = time.perf_counter()
        jax.block_until_ready(score(piece))
        seconds[name].append(time.perf_counter() - start)
    told = (
      f'{name} {1e3 * statistics.median(times[1:]):.3g}'
      for name, times in seconds.items()
    )
    print(f'batch {size}, ms:  {",  ".join(told)}')


def main() -> None:
  """Measures one trained model."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', type=Path, required=True)
  parser.add_argument('--rounds', type=int, default=50)
  parser.add_argument('--sizes', type=int, nargs='+', default=[1, 64, 1024])
  arguments = parser.parse_args()
  defaults = default.get_config().to_dict()
  chosen = choose(arguments.workdir, 'best', defaults)
  mesh = sharding.make_mesh(jax.devices()[:1])
  with sharding.use(mesh), tempfile.TemporaryDirectory() as work:
    state = chosen.state()
    validation, test = (
      list(examined(chosen.run, None, split, _BATCH, 'stop').batches)
      for split in ('validation', 'test')
    )
    variants = {
      name: _variant(chosen, state, validation, **fields)
      for name, fields in _MODELS.items()
    }
    _print_quality(variants, state, test)
    contenders: dict[str, Callable[[Inputs], Any]] = {}
    for name in ('float32', 'bfloat16', 'int8', 'int8, 4 outliers'):
      network, layers = variants[name]
      score = jax.jit(network.outputs)
      contenders[f'XLA {name}'] = lambda x, score=score, layers=layers: score(
        layers, state.tables, x
      )
    for name in ('float32', 'int8'):
      folder = Path(work, name)
      run = _in_onnxruntime(chosen, variants[name], folder)
      contenders[f'onnxruntime {name}'] = run
    inputs = jax.tree.map(jnp.asarray, test[0].inputs)
    _print_times(contenders, inputs, arguments.sizes, arguments.rounds)


if __name__ == '__main__':
  main()
