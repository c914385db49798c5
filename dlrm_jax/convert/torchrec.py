"""State dicts of torchrec's DLRM and DLRM_DCN: `.pt` files and folders.

Names are those of the model, or of what wraps it (`model.` of DLRMTrain,
`module.`). Optimizers keep states under the name of the parameter and one of
their own: `sum` of torch.optim.Adagrad, `TABLE.momentum1` of fused ones. The
interaction has the pairs above the diagonal, ours those below it, so the first
layer after it has its columns in another order.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.convert.program import (
  BOTTOM,
  CROSS,
  TABLES,
  TOP,
  Array,
  Found,
  Match,
  Program,
  Setting,
  Sizes,
  common_misfit,
  layer_arrays,
  layers_below,
  typed,
  weights,
)
from dlrm_jax.convert.torch_files import TorchArray, arrays_of
from dlrm_jax.convert.torchrec_quantised import (
  BAGS,
  BOTTOM_WEIGHT,
  KERNELS,
  load_quantised,
  with_packed_tables,
)
from dlrm_jax.embedding.encoding import Plain
from dlrm_jax.embedding.network import Network
from dlrm_jax.errors import InputError
from dlrm_jax.models.dcn import DCN, Structure
from dlrm_jax.models.dlrm import DLRM, Interaction
from dlrm_jax.models.interaction import pairs

_CROSS = {'up': 'W_kernels', 'down': 'V_kernels', 'bias': 'bias'}
_PARAMETER = re.compile(
  r'(?:.*?\.)?((?:sparse|dense|inter|over)_arch\..*?'
  r'(?:weight(?:_q(?:scale|bias))?|bias(?:\.\d+)?|kernels\.\d+))(?:\.(.+))?'
)
"""What wraps a model, a parameter, and the name of a state of an optimizer."""
_WRAPPERS = re.compile(r'\.(?:module|_dmp_wrapped_module)(?=\.)')


def find(content: Any, path: Path) -> Found:
  """The tensors in a file, or in a folder that is read.

  Tables are in the order of the numbers at the end of their names, where each
  has its own, else in the order of the file; they are named `t_cat_0`, ...

  Raises:
    InputError: there is no such model, or quantised tables are damaged.
  """
  arrays: Mapping[str, TorchArray]
  if isinstance(content, Mapping) and all(
    isinstance(x, TorchArray) for x in content.values()
  ):
    arrays = content
  else:
    arrays = arrays_of(content, path)
  there: dict[str, TorchArray] = {}
  kernels: dict[str, TorchArray] = {}
  slots: dict[str, dict[str, Array]] = {}
  for name, x in arrays.items():
    plain = _WRAPPERS.sub('', name)
    match = _PARAMETER.fullmatch(plain)
    if KERNELS in plain:
      kernels[plain] = x
    elif match is not None and match[2]:
      state = match[2].rpartition('.')[2]
      slots.setdefault(match[1], {})[state] = x
    elif '_arch.' in plain:  # others are counters and the like
      there[plain if match is None else match[1]] = x
  if not there:
    names = ', '.join(list(arrays)[:3]) or 'no tensors'
    hint = ''
    if any('emb_l.' in name for name in arrays):
      hint = '; these are names of facebookresearch/dlrm: --from=fb'
    elif any('embedding_bags.' in name for name in arrays):
      hint = '; these are tables alone, without the layers of a model'
    raise InputError(
      f'{path}: no model of torchrec: it has {names}; expected '
      f'{BAGS}t_cat_0.weight, dense_arch.model and so on{hint}'
    )
  tensors = with_packed_tables(there, kernels, path)
  tables = _tables_in_order(tensors)
  names = {x: f'{BAGS}t_cat_{i}.weight' for i, x in enumerate(tables)}
  others = [name for name in tensors if name not in names]
  return Found(
    path,
    {names.get(name, name): tensors[name] for name in (*tables, *others)},
    {names.get(name, name): of_one for name, of_one in slots.items()},
  )


def _tables_in_order(tensors: Mapping[str, Any]) -> list[str]:
  """Names of the tensors of tables, in the order of features."""
  names = [name for name in tensors if name.startswith(BAGS)]
  numbers = {
    name: int(match[1])
    for name in names
    if (match := re.search(r'(\d+)\.weight$', name))
  }
  if len({*numbers.values()}) == len(names):
    return sorted(names, key=lambda name: numbers[name])
  return names


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
  """The sizes of a model."""
  tables = weights(shapes, re.escape(BAGS) + r't_cat_(\d+)\.weight')
  bottom = weights(shapes, BOTTOM_WEIGHT)
  hidden = weights(shapes, r'over_arch\.model\.0\._mlp\.(\d+)\._linear\.weight')
  cross = weights(shapes, r'inter_arch\.crossnet\.W_kernels\.(\d+)')
  bottoms, tops = ([x[0] for x in part.values()] for part in (bottom, hidden))
  model: dict[str, object] = {'model.name': 'dcn' if cross else 'dlrm'}
  if cross:
    rank = next(iter(cross.values()))[-1]
    model |= {'model.dcn.layers': len(cross), 'model.dcn.rank': rank}
  dim = bottoms[-1] if bottoms else 0
  return Sizes(
    next(iter(bottom.values()))[1] if bottom else 0,
    tuple(x[0] for x in tables.values()),
    {
      TABLES: {'model.dim': dim},
      BOTTOM: {'model.bottom': typed(bottoms[:-1]), 'model.dim': dim},
      CROSS: model,
      TOP: {**model, 'model.top': typed(tops)},
    },
  )


def _columns(network: Network) -> np.ndarray | None:
  """Where torchrec has each input of our first layer after the interaction."""
  if isinstance(network.model, DCN):
    return None
  features = network.collection.features
  dim, count = features[0].encoding.dim, len(features) + 1
  theirs = np.zeros((count, count), int)
  theirs[np.triu_indices(count, 1)] = np.arange(count * (count - 1) // 2)
  i, j = pairs(count, False)
  return np.concatenate([np.arange(dim), dim + theirs[j, i]])


def matches(network: Network) -> list[Match]:
  """All tensors of a network's model, in the order of its state dict."""
  shapes = layer_arrays(network)
  tables = [
    Match(
      f'{BAGS}t_cat_{i}.weight',
      table.name,
      (table.rows, table.dim),
      TABLES,
      feature=feature.source,
    )
    for i, feature in enumerate(network.collection.features)
    for table in feature.encoding.tables
  ]
  cross = [
    Match(
      f'inter_arch.crossnet.{theirs}.{layer}',
      ours := f'model.cross_{layer}.{mine}',
      shapes[ours][::-1],
      CROSS,
    )
    for mine, theirs in _CROSS.items()
    for layer in range(getattr(network.model, 'layers', 0))
  ]
  dense = _mlp(shapes, BOTTOM, 'dense_arch.model', None)
  return tables + dense + cross + _over(shapes, _columns(network))


def _mlp(
  shapes: Mapping[str, tuple[int, ...]],
  part: str,
  start: str,
  columns: np.ndarray | None,
) -> list[Match]:
  """The tensors of an MLP; `columns` are those of its first kernel."""
  return [
    Match(
      f'{start}._mlp.{k}._linear.{kind}',
      ours := f'model.{part}.dense_{k}.{mine}',
      shapes[ours][::-1],
      part,
      columns if (k, kind) == (0, 'weight') else None,
    )
    for k in layers_below(shapes, part)
    for kind, mine in (('weight', 'kernel'), ('bias', 'bias'))
  ]


def _over(
  shapes: Mapping[str, tuple[int, ...]], columns: np.ndarray | None
) -> list[Match]:
  """The tensors of the MLP after the interaction; its last layer is apart."""
  found = _mlp(shapes, TOP, 'over_arch.model.0', columns)
  last = [
    match._replace(name=f'over_arch.model.1.{match.name.rpartition(".")[2]}')
    for match in found[-2:]
  ]
  return found[:-2] + last


def misfit(network: Network) -> str:
  """Why the program has no such model; '' where it has."""
  if why := common_misfit(network):
    return why
  model: Any = network.model
  if not isinstance(model, DLRM | DCN):
    return f'model.name is {type(model).__name__.lower()}; expected dlrm or dcn'
  for feature in network.collection.features:
    if not isinstance(feature.encoding, Plain):
      return (
        f'tables.encoding (feature {feature.name}) is '
        f'{feature.encoding.meaning}; expected plain'
      )
  if isinstance(model, DLRM):
    if model.interaction is not Interaction.DOT:
      found = model.interaction.value
      return f'model.dlrm.interaction is {found}; expected dot'
  elif model.structure is not Structure.STACKED:
    return f'model.dcn.structure is {model.structure.value}; expected stacked'
  elif not model.rank:
    return 'model.dcn.rank is 0, full rank; expected 1 or more'
  if not model.top:
    return 'model.top is empty; expected one hidden layer or more'
  return ''


def content(
  tensors: Mapping[str, Any],
  slots: Mapping[str, Mapping[str, Any]],
  setting: Setting,
) -> dict[str, Any]:
  """The state dict of the model, and states of optimizers beside it."""
  del setting
  named: dict[str, Any] = OrderedDict(tensors)
  for name, of_one in slots.items():
    for state, x in of_one.items():
      named[f'state.{name}.{state}'] = x
  return named


def slot(match: Match, layers: str, tables: str, as_folder: bool) -> str:
  """Its name for the sums of squares of a tensor; '' where it keeps none.

  A file has the model alone, as load_state_dict refuses other names.
  """
  kept = ('adagrad', 'rowwise_adagrad') if match.is_table else ('adagrad',)
  if not as_folder or (tables if match.is_table else layers) not in kept:
    return ''
  if not match.is_table:
    return 'sum'
  table = match.name.removeprefix(BAGS).removesuffix('.weight')
  return f'{table}.momentum1'


def advice(network: Network) -> str:
  """The class, and the arguments that it is made with."""
  model: Any = network.model
  features = network.collection.features
  rows = ', '.join(str(feature.encoding.ids) for feature in features)
  said = (
    f'dense_in_features={network.dense_features}, '
    f'dense_arch_layer_sizes={list(model.bottom)}, '
    f'over_arch_layer_sizes={[*model.top, 1]}'
  )
  name = 'DLRM'
  if isinstance(model, DCN):
    name = 'DLRM_DCN'
    said += f', dcn_num_layers={model.layers}, dcn_low_rank_dim={model.rank}'
  return (
    f'{name}({said}), tables t_cat_0, ... of width '
    f'{features[0].encoding.dim} with {rows} rows'
  )


TORCHREC = Program(
  title='torchrec',
  find=find,
  sizes=sizes,
  matches=matches,
  misfit=misfit,
  content=content,
  slot=slot,
  why_no_slot='a .pt file has the model alone; an --output without .pt is a '
  'folder, which has it',
  advice=advice,
  folders=True,
  load_quantised=load_quantised,
)
