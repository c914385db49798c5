"""Reads folders of torch.distributed.checkpoint; nothing in them is executed.

The list of parts of all tensors, `.metadata`, is a pickle. It is read with
stand-ins for all classes, which do nothing. Each part is a file of torch.save
within a file of the folder; it is copied to a file of its own and mapped.
"""

import collections
import errno
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlrm_jax.convert.scratch import Scratch
from dlrm_jax.convert.torch_files import FLOATS, TorchArray, import_torch
from dlrm_jax.errors import InputError

_METADATA = '.metadata'
_PIECE = 8 * 2**20  # bytes


class _StandIn:
  """An object of a pickle: what it was made of, and nothing that acts."""

  def __new__(cls, *arguments: Any) -> Any:
    made = object.__new__(cls)
    made.__dict__['arguments'] = arguments
    return made

  def __init__(self, *arguments: Any) -> None:
    del arguments

  def __setstate__(self, state: Any) -> None:
    fields = state if isinstance(state, dict) else {'state': state}
    self.__dict__.update(fields)


class _StandIns(pickle.Unpickler):
  """Reads a pickle whose classes and functions are all stand-ins."""

  def find_class(self, module: str, name: str) -> Any:
    """A stand-in that remembers the name; nothing is imported."""
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    return type(name, (_StandIn,), {'__module__': module})


class _Part(NamedTuple):
  """A part of a tensor in a file of a folder.

  Attributes:
    where: the rows and columns of the tensor that it has.
    path: the file.
    offset: its first byte.
    length: number of its bytes.
  """

  where: tuple[slice, ...]
  path: Path
  offset: int
  length: int


class _Listed(NamedTuple):
  """A tensor in a folder: its shape, the name of its dtype, its parts."""

  shape: tuple[int, ...]
  kind: str
  parts: list[_Part]


def _dims(size: Any) -> tuple[int, ...]:
  """The numbers of a torch.Size that was read with stand-ins."""
  return tuple(size.arguments[0]) if size.arguments else ()


def _listed(folder: Path) -> dict[str, _Listed]:
  """The tensors that the list of a folder names."""
  with (folder / _METADATA).open('rb') as file:
    metadata = _StandIns(file).load()
  tensors, sizes = {}, {}
  for name, about in metadata.state_dict_metadata.items():
    if type(about).__name__ != 'TensorStorageMetadata':
      continue
    kind = about.properties.state[0].__name__
    tensors[name] = _Listed(_dims(about.size), kind, [])
    for chunk in about.chunks:
      sizes[name, _dims(chunk.offsets)] = _dims(chunk.sizes)
  for index, info in metadata.storage_data.items():
    if index.fqn not in tensors:
      continue
    if getattr(info, 'transform_descriptors', None):
      raise InputError(
        f'{folder}: {index.fqn} is kept as {info.transform_descriptors}; '
        f'expected tensors that are not compressed'
      )
    start = _dims(index.offset)
    where = tuple(
      slice(low, low + count)
      for low, count in zip(start, sizes[index.fqn, start], strict=True)
    )
    path = folder / Path(info.relative_path).name
    part = _Part(where, path, info.offset, info.length)
    tensors[index.fqn].parts.append(part)
  return tensors


def read_folder(folder: Path, scratch: Scratch) -> dict[str, TorchArray]:
  """The tensors in a folder of torch.distributed.checkpoint, by name.

  Args:
    folder: the folder.
    scratch: makes the arrays that the parts are put into.

  Raises:
    InputError: it is another folder, or is damaged.
  """
  torch = import_torch()
  if not (folder / _METADATA).is_file():
    raise InputError(
      f'{folder}: a folder without {_METADATA}; expected one that '
      f'torch.distributed.checkpoint.save wrote, or a .pt file'
    )
  try:
    listed = _listed(folder)
  except InputError:
    raise
  # Whatever a damaged pickle makes of the stand-ins.
  except Exception as error:
    raise InputError(
      f'{folder / _METADATA}: damaged, or no list of '
      f'torch.distributed.checkpoint ({error!r})'
    ) from None
  found = {}
  for name, (shape, kind, parts) in listed.items():
    if kind not in FLOATS or not shape:
      dtype = getattr(torch, kind)
      found[name] = TorchArray(torch.empty(shape, dtype=dtype, device='meta'))
      continue
    gap = _gap(shape, parts)
    if gap is not None:
      raise InputError(
        f'{folder}: {name}, of shape {list(shape)}, is not whole: no part has '
        f'its numbers from {list(gap)} on; copy or save the checkpoint again'
      )
    target = scratch.array(shape, np.float32)
    for part in parts:
      _put(name, part, target[part.where], scratch.path())
    found[name] = TorchArray(torch.from_numpy(target))
  return found


def _gap(shape: tuple[int, ...], parts: list[_Part]) -> tuple[int, ...] | None:
  """The first place of a tensor that none of its parts has; None: none.

  The ends of all parts cut the tensor into cells, each of which a part has in
  full or not at all.
  """
  ends = [
    sorted({0, size, *(x for part in parts for x in _ends(part, axis))})
    for axis, size in enumerate(shape)
  ]
  number = [{end: k for k, end in enumerate(of_axis)} for of_axis in ends]
  there = np.zeros([len(of_axis) - 1 for of_axis in ends], bool)
  for part in parts:
    cells = (
      slice(k[where.start], k[where.stop])
      for k, where in zip(number, part.where, strict=True)
    )
    there[tuple(cells)] = True
  lacking = np.argwhere(~there)
  if not len(lacking):
    return None
  return tuple(of[k] for of, k in zip(ends, lacking[0], strict=True))


def _ends(part: _Part, axis: int) -> tuple[int, int]:
  return part.where[axis].start, part.where[axis].stop


def _put(name: str, part: _Part, target: np.ndarray, copy: Path) -> None:
  """Writes a part of a tensor into its place, some rows at a time.

  Args:
    name: name of the tensor, for messages.
    part: the part.
    target: the place.
    copy: a file for the bytes of the part, so that it can be mapped.
  """
  try:
    _copy(part, copy)
    array = TorchArray(
      import_torch().load(
        copy, map_location='cpu', weights_only=True, mmap=True
      )
    )
    if array.shape != target.shape:
      raise ValueError(f'shape {array.shape}; expected {target.shape}')
    step = max(1, _PIECE * len(target) // max(target.nbytes, 1))
    for low in range(0, len(target), step):
      target[low : low + step] = array[low : low + step]
  except OSError as error:
    if error.errno == errno.ENOSPC:
      raise  # the copy cannot be written
    raise InputError(
      f'{part.path}: cannot be read: {error.strerror or error}'
    ) from None
  # PyTorch has no one class for what is wrong with a file.
  except Exception as error:
    raise InputError(
      f'{part.path}: damaged: {name} cannot be read there: '
      f'{" ".join(str(error).split())[:200]}'
    ) from None
  copy.unlink()


def _copy(part: _Part, copy: Path) -> None:
  """Copies the bytes of a part to a file of its own."""
  with part.path.open('rb') as file, copy.open('wb') as out:
    file.seek(part.offset)
    left = part.length
    while left > 0 and (block := file.read(min(left, _PIECE))):
      out.write(block)
      left -= len(block)
  if left:
    raise ValueError(f'{left:,} bytes of {part.length:,} are missing')
