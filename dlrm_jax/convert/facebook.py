"""Checkpoints of facebookresearch/dlrm, a `.pt` file of `--save-model`.

`state_dict` has the tables `emb_l.N.weight` (quotient-remainder: `weight_q` and
`weight_r`; mixed dimensions: `embs.weight` and `proj.weight`), and the layers
`bot_l.2k` and `top_l.2k`. Numbers between are those of ReLUs. The last sigmoid
has no tensor: it is outside of our model, whose output is the logit.
`opt_state_dict` numbers the parameters in the order of `state_dict`. The pairs
of the interaction have our order.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.convert.facebook_models import flags_of, misfit
from dlrm_jax.convert.program import (
  BOTTOM,
  PROJECTIONS,
  TABLES,
  TOP,
  Found,
  Match,
  Program,
  Setting,
  Sizes,
  layer_arrays,
  layers_below,
  typed,
  weights,
)
from dlrm_jax.convert.torch_files import TorchArray, arrays_of, import_torch
from dlrm_jax.embedding.encoding import Composed, Projected
from dlrm_jax.embedding.network import Network
from dlrm_jax.embedding.operations import Concat
from dlrm_jax.errors import InputError
from dlrm_jax.models.dlrm import Interaction

_LAYERS = {BOTTOM: 'bot_l', TOP: 'top_l'}
_MINE = re.compile(r'(emb_l|bot_l|top_l|v_W_l)\.')


def _plain_name(name: str) -> str:
  """A name without what DistributedDataParallel puts into it."""
  return name.removeprefix('module.').replace('.module.', '.')


def find(content: Any, path: Path) -> Found:
  """The tensors in a file.

  Raises:
    InputError: it is no checkpoint of this program.
  """
  known = content if isinstance(content, Mapping) else {}
  tensors = arrays_of(known.get('state_dict', content), path)
  tensors = {_plain_name(name): x for name, x in tensors.items()}
  if not any(map(_MINE.match, tensors)):
    there = ', '.join(list(tensors)[:3]) or 'no tensors'
    hint = ''
    if any('_arch.' in name for name in tensors):
      hint = '; these are names of torchrec: --from=torchrec'
    raise InputError(
      f'{path}: no checkpoint of facebookresearch/dlrm: its state_dict has '
      f'{there}; expected emb_l.0.weight, bot_l.0.weight and so on{hint}'
    )
  return Found(path, tensors, _slots(known.get('opt_state_dict'), [*tensors]))


def _slots(
  optimizer: Any, names: list[str]
) -> dict[str, dict[str, TorchArray]]:
  """What an optimizer keeps, by name of the parameter."""
  if not isinstance(optimizer, Mapping):
    return {}
  state = optimizer.get('state', {})
  groups = optimizer.get('param_groups', ())
  numbers = [number for group in groups for number in group['params']]
  return {
    name: arrays_of(state[number])
    for name, number in zip(names, numbers, strict=False)
    if number in state
  }


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
  """The sizes of a model.

  A table of quotients with one of remainders has as many ids as there are
  pairs of their rows: the file does not say how many of them are used.
  """
  plain = weights(shapes, r'emb_l\.(\d+)(?:\.embs)?\.weight')
  quotients = weights(shapes, r'emb_l\.(\d+)\.weight_q')
  remainders = weights(shapes, r'emb_l\.(\d+)\.weight_r')
  rows = {i: x[0] for i, x in plain.items()}
  collisions = next(iter(remainders.values()), (0,))[0]
  rows |= {i: x[0] * collisions for i, x in quotients.items()}
  bottom = weights(shapes, r'bot_l\.(\d+)\.weight')
  top = weights(shapes, r'top_l\.(\d+)\.weight')
  bottoms, tops = ([x[0] for x in part.values()] for part in (bottom, top))
  dim = bottoms[-1] if bottoms else 0
  tables: dict[str, object] = {'model.dim': dim}
  if quotients:
    tables |= {
      'tables.encoding': 'quotient_remainder',
      'tables.combine': 'mult|add|concat',
      'tables.buckets': f'{collisions},0',
      'tables.threshold': max(rows[i] for i in plain) if plain else 0,
    }
  elif any(name.endswith('.embs.weight') for name in shapes):
    tables |= {
      'tables.encoding': 'mixed_dims',
      'tables.alpha': 'TEMPERATURE',
      'tables.threshold': 0,
    }
  else:
    tables['tables.encoding'] = 'plain'
  return Sizes(
    next(iter(bottom.values()))[1] if bottom else 0,
    tuple(rows[i] for i in sorted(rows)),
    {
      TABLES: tables,
      PROJECTIONS: tables,
      BOTTOM: {'model.bottom': typed(bottoms[:-1]), 'model.dim': dim},
      TOP: {'model.name': 'dlrm', 'model.top': typed(tops[:-1])},
    },
  )


def _tables(network: Network, shapes: Mapping[str, Any]) -> list[Match]:
  features = network.collection.features
  mixed = any(isinstance(f.encoding, Projected) for f in features)
  found: list[Match] = []
  for i, feature in enumerate(features):
    encoding, start = feature.encoding, f'emb_l.{i}'
    names = ['weight_r', 'weight_q'] if isinstance(encoding, Composed) else []
    names = names or [f'{"embs." * mixed}weight']
    of_feature = [
      Match(
        f'{start}.{name}',
        table.name,
        (table.rows, table.dim),
        TABLES,
        feature=feature.source,
      )
      for name, table in zip(names, encoding.tables, strict=True)
    ]
    found += reversed(of_feature)
    if isinstance(encoding, Projected):
      ours = f'{encoding.table.name}_projection.kernel'
      shape = shapes[ours][::-1]
      found.append(Match(f'{start}.proj.weight', ours, shape, PROJECTIONS))
  return found


def _halves(network: Network) -> np.ndarray | None:
  """Where the program has each number of our vectors; None: at its place.

  Vectors that are concatenated begin with the row of the quotient there, and
  with that of the remainder here. Dense features interact with them, so the
  output of the bottom MLP has its halves exchanged, too.
  """
  encoding = network.collection.features[0].encoding
  if not isinstance(encoding, Composed):
    return None
  if not isinstance(encoding.operation, Concat):
    return None
  return np.roll(np.arange(encoding.dim), encoding.dim // 2)


def _joined(
  network: Network, halves: np.ndarray | None, width: int
) -> np.ndarray | None:
  """Where the program has each input of our first layer of the top MLP.

  Pairs of vectors are the same in any order of the numbers in a vector.

  Args:
    network: the network.
    halves: as `_halves` gives them.
    width: number of inputs, which begin with the dense vector.
  """
  if halves is None:
    return None
  model: Any = network.model
  cat = model.interaction is Interaction.CAT
  vectors = 1 + len(network.collection.features) if cat else 1
  columns = np.arange(width)
  for start in range(0, vectors * len(halves), len(halves)):
    columns[start : start + len(halves)] = start + halves
  return columns


def matches(network: Network) -> list[Match]:
  """All tensors of a network's model, in the order of its parameters."""
  shapes = layer_arrays(network)
  last = layers_below(shapes, BOTTOM)[-1]
  halves = _halves(network)
  layers = [
    Match(
      f'{theirs}.{2 * k}.{kind}',
      ours := f'model.{part}.dense_{k}.{mine}',
      shapes[ours][::-1],
      part,
      columns=_joined(network, halves, shapes[ours][0])
      if (part, k, kind) == (TOP, 0, 'weight')
      else None,
      rows=halves if (part, k) == (BOTTOM, last) else None,
    )
    for part, theirs in _LAYERS.items()
    for k in layers_below(shapes, part)
    for kind, mine in (('weight', 'kernel'), ('bias', 'bias'))
  ]
  return _tables(network, shapes) + layers


def content(
  tensors: Mapping[str, Any],
  slots: Mapping[str, Mapping[str, Any]],
  setting: Setting,
) -> dict[str, Any]:
  """What `--save-model` saves, so that `--load-model` takes it.

  Numbers are those of Python, not NumPy's, which torch.load refuses unless it
  is told otherwise. The program starts with the first batch of an epoch.
  """
  return {
    'nepochs': 1,
    'nbatches': max(setting.step, 1),
    'nbatches_test': 1,
    'state_dict': OrderedDict(tensors),
    'test_acc': setting.accuracy,
    'epoch': 0,
    'iter': 0,
    'train_loss': 0.0,
    'total_loss': 0.0,
    'opt_state_dict': _optimizer(list(tensors), slots, setting),
  }


def slot(match: Match, layers: str, tables: str, as_folder: bool) -> str:
  """Its name for the sums of squares of a tensor; '' where it keeps none."""
  del as_folder
  if layers != 'adagrad' or tables not in ('adagrad', 'rowwise_adagrad'):
    return ''
  return 'momentum' if match.is_table and tables != 'adagrad' else 'sum'


def _optimizer(
  names: list[str], slots: Mapping[str, Mapping[str, Any]], setting: Setting
) -> dict[str, Any]:
  """The state_dict of the optimizer: SGD, torch's Adagrad, or RWSAdagrad."""
  torch = import_torch()
  rowwise = any('momentum' in of_one for of_one in slots.values())
  rate = setting.learning_rate
  if rowwise:
    group: dict[str, Any] = {
      'lr': rate,
      'lr_decay': 0.0,
      'eps': 1e-10,
      'weight_decay': 0.0,
      'initial_accumulator_value': 0.0,
    }
  else:
    made = torch.optim.Adagrad if slots else torch.optim.SGD
    group = made([torch.zeros(1)], lr=rate).state_dict()['param_groups'][0]
  group |= {'initial_lr': rate, 'params': [*range(len(names))]}
  step = setting.step if rowwise else torch.tensor(float(setting.step))
  return {
    'state': {
      number: {'step': step, **slots[name]}
      for number, name in enumerate(names)
      if name in slots
    },
    'param_groups': [group],
  }


FACEBOOK = Program(
  title='facebookresearch/dlrm',
  find=find,
  sizes=sizes,
  matches=matches,
  misfit=misfit,
  content=content,
  slot=slot,
  why_no_slot='its optimizers move layers and tables alike: sgd, adagrad, or '
  'adagrad with rowwise_adagrad of tables',
  advice=flags_of,
  folders=False,
)
