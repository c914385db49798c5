"""Whether a file fits the model of a config, and what would make it fit."""

from collections.abc import Mapping, Sequence

from dlrm_jax.convert.packed import PackedTable
from dlrm_jax.convert.program import (
  BOTTOM,
  CROSS,
  TABLES,
  TOP,
  Found,
  Match,
  Sizes,
)
from dlrm_jax.convert.torch_files import FLOATS
from dlrm_jax.errors import InputError

_MOST = 6  # most names in a message
_PARTS = {
  'emb_l.': TABLES,
  'bot_l.': BOTTOM,
  'top_l.': TOP,
  'sparse_arch.': TABLES,
  'dense_arch.': BOTTOM,
  'inter_arch.crossnet.': CROSS,
  'over_arch.': TOP,
}
"""What a tensor belongs to, by the beginning of its name in any program."""
_QUANTISED = ('uint8', 'int8', 'quint8', 'qint8', 'quint4x2')


def _listed(names: Sequence[str]) -> str:
  more = f' and {len(names) - _MOST} more' if len(names) > _MOST else ''
  return ', '.join(names[:_MOST]) + more


def _rows_advice(match: Match, rows: Sequence[int], has_data: bool) -> str:
  """How a table gets the number of rows that the file has."""
  if has_data:
    return (
      f'its rows are the vocabulary of {match.feature}: prepare the set as '
      f'that of the file was (--max_ind_range, --min_count, --mode, '
      f'--hash_rows, --num_embeddings)'
    )
  numbers = ','.join(map(str, rows))
  return (
    f'--config.data.expected.rows={numbers}, or () for the sizes of the file'
  )


def _shape_advice(
  match: Match, shape: tuple[int, ...], sizes: Sizes, has_data: bool
) -> str:
  flags = sizes.flags(match.part)
  if match.part == TABLES and shape[1:] == match.shape[1:]:
    if 'weight_' in match.name:
      return f'the file fits {flags}, and as many ids as there'
    return _rows_advice(match, sizes.rows, has_data)
  if match.part == BOTTOM and shape[:1] == match.shape[:1]:
    where = (
      'prepare the columns that it was trained on'
      if has_data
      else f'--config.data.expected.dense={sizes.dense}'
    )
    return f'the file has {sizes.dense} dense features; {where}'
  if match.part == TOP and shape[:1] == match.shape[:1]:
    return (
      f'its inputs follow from the number of features, config.model.dim and '
      f'config.model.dlrm.interaction; the file fits {flags}'
    )
  return f'the file fits {flags}'


def check_fits(
  found: Found, matches: Sequence[Match], sizes: Sizes, has_data: bool
) -> None:
  """Checks that a file has all tensors of a model, and no others.

  Args:
    found: what is in the file.
    matches: the tensors of the model of the config.
    sizes: the sizes of the model in the file.
    has_data: whether the config names a set.

  Raises:
    InputError: it does not; names the tensor, both shapes, and the flags.
  """
  wanted = {match.name: match for match in matches}
  features = len({m.feature for m in matches if m.is_table})
  if features != len(sizes.rows):
    hint = '' if has_data else ' (config.data.expected.rows)'
    raise InputError(
      f'{found.path}: {len(sizes.rows)} tables, and {features} sparse features '
      f'by the config and its data{hint}; expected one for each'
    )
  _check_kinds(found, wanted)
  for match in matches:
    shape = (
      found.tensors[match.name].shape if match.name in found.tensors else None
    )
    if shape is not None and shape != match.shape:
      raise InputError(
        f'{found.path}: {match.name} has shape {list(shape)}; by the config '
        f'and its data it is {list(match.shape)}: '
        f'{_shape_advice(match, shape, sizes, has_data)}'
      )
  _check_names(found, wanted, sizes)


def _check_names(
  found: Found, wanted: Mapping[str, Match], sizes: Sizes
) -> None:
  missing = [name for name in wanted if name not in found.tensors]
  extra = [name for name in found.tensors if name not in wanted]
  said = []
  if missing:
    said.append(f'has no {_listed(missing)}')
  if extra:
    said.append(f'has {_listed(extra)}, which the model has not')
  if not said:
    return
  if any(name.startswith('v_W_l.') for name in extra):
    advice = 'v_W_l are learned weights of ids, which dlrm_jax does not have'
  else:
    parts = [wanted[name].part for name in missing]
    parts += [
      part
      for start, part in _PARTS.items()
      if any(name.startswith(start) for name in extra)
    ]
    flags = [word for part in parts for word in sizes.flags(part).split()]
    advice = f'the file fits {" ".join(dict.fromkeys(flags))}'
    if not flags:
      advice = 'dlrm_jax has no such model'
  raise InputError(f'{found.path}: {" and ".join(said)}; {advice}')


def _check_kinds(found: Found, wanted: Mapping[str, Match]) -> None:
  """Raises an error where tensors are no floats, nor rows of torchrec."""
  for name, x in found.tensors.items():
    if isinstance(x, PackedTable):
      continue
    if x.kind in _QUANTISED:
      raise InputError(
        f'{found.path}: {name} is {x.kind}, quantised; expected float32: '
        f'convert the model as it was before it was quantised'
      )
    if name in wanted and x.kind not in FLOATS:
      raise InputError(
        f'{found.path}: {name} is {x.kind}; expected one of {", ".join(FLOATS)}'
      )
