"""Loads a converted model in the program that it is for, and scores inputs.

  python tests/convert/peer.py PROGRAM
  python tests/convert/peer.py PROGRAM MODEL INPUTS.npz OUTPUTS.npz

A process of its own, whose Python has that program; it imports nothing of this
project. MODEL is a `.pt` file, or a folder of torch.distributed.checkpoint.
INPUTS.npz has `dense`, `indicesT` and `offsetsT` of each table, and `meta`, the
sizes of the model as JSON. OUTPUTS.npz gets `predictions`, probabilities. With
PROGRAM alone the reason is printed why it cannot be imported, or an empty line.

torchrec quantises a model where `meta` has `dtypes`, one for each table: before
it loads MODEL, or, where `meta` has `save`, afterwards, as `how` says; then its
state dict is saved under that name. The checkout of facebookresearch/dlrm is
named by DLRM_JAX_FB_DLRM.
"""

import json
import os
import sys

import numpy as np


def torchrec_model(meta):
  import torch
  from torchrec import EmbeddingBagCollection
  from torchrec.models.dlrm import DLRM, DLRM_DCN
  from torchrec.modules.embedding_configs import EmbeddingBagConfig

  tables = [
    EmbeddingBagConfig(
      name=f't_cat_{i}',
      embedding_dim=meta['dim'],
      num_embeddings=rows,
      feature_names=[f'cat_{i}'],
    )
    for i, rows in enumerate(meta['rows'])
  ]
  options = {
    'embedding_bag_collection': EmbeddingBagCollection(
      tables=tables, device=torch.device('cpu')
    ),
    'dense_in_features': meta['dense'],
    'dense_arch_layer_sizes': meta['bottom'],
    'over_arch_layer_sizes': meta['top'],
  }
  if 'layers' not in meta:
    return DLRM(**options)
  return DLRM_DCN(
    **options, dcn_num_layers=meta['layers'], dcn_low_rank_dim=meta['rank']
  )


def quantised(model, meta):
  import torch
  from torchrec import EmbeddingBagCollection
  from torchrec.inference import modules
  from torchrec.quant import embedding_modules

  dtypes = {
    f't_cat_{i}': getattr(torch, x) for i, x in enumerate(meta['dtypes'])
  }
  if meta.get('how') == 'inference':
    return modules.quantize_inference_model(
      model, per_table_weight_dtype=dtypes
    )
  if meta.get('how') == 'apart':
    prepare = 'quant_prep_enable_quant_state_dict_split_scale_bias_for_types'
    getattr(embedding_modules, prepare)(model, [EmbeddingBagCollection])
  if meta.get('how') == 'unaligned':
    prepare = embedding_modules.quant_prep_customize_row_alignment
    prepare(model, [EmbeddingBagCollection], 1)
  return modules.quantize_embeddings(
    model, torch.qint8, inplace=True, per_table_weight_dtype=dtypes
  )


def load_torchrec(path, meta):
  import torch

  model = torchrec_model(meta).eval()
  if os.path.isdir(path):
    state = model.state_dict()
    torch.distributed.checkpoint.load(state, checkpoint_id=path, no_dist=True)
    model.load_state_dict(state)
    return model
  state = torch.load(path, weights_only=True)
  if 'dtypes' in meta and 'save' not in meta:
    model = quantised(model, meta)
    own = model.state_dict()
    assert own.keys() == state.keys(), own.keys() ^ state.keys()
    for name, x in state.items():
      own[name].view(x.dtype).copy_(x)
    return model
  model.load_state_dict(state)
  if 'save' in meta:
    model = quantised(model, meta)
    state = model.state_dict()
    if meta['how'] == 'apart':  # one storage has no two dtypes in a file
      state = {name: x.clone() for name, x in state.items()}
    torch.save(state, meta['save'])
  return model


def score_torchrec(path, meta, held):
  import torch
  from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

  model = load_torchrec(path, meta)
  tables = range(len(meta['rows']))
  lengths = [
    np.diff(held[f'offsets{t}'], append=len(held[f'indices{t}']))
    for t in tables
  ]
  features = KeyedJaggedTensor.from_lengths_sync(
    keys=[f'cat_{t}' for t in tables],
    values=torch.from_numpy(
      np.concatenate([held[f'indices{t}'] for t in tables])
    ),
    lengths=torch.from_numpy(np.concatenate(lengths)),
  )
  return model(torch.from_numpy(held['dense']), features).sigmoid()


def facebook_model(meta):
  sys.path.insert(0, os.environ['DLRM_JAX_FB_DLRM'])
  from dlrm_s_pytorch import DLRM_Net

  count = len(meta['rows']) + 1
  itself = meta.get('itself', False)
  pairs = count * (count + (1 if itself else -1)) // 2
  width = {'dot': meta['bottom'][-1] + pairs, 'cat': count * meta['bottom'][-1]}
  interaction = meta.get('interaction', 'dot')
  top = [width[interaction], *meta['top']]
  return DLRM_Net(
    meta.get('widths', meta.get('stored_dim', meta['dim'])),
    np.array(meta['rows']),
    np.array([meta['dense'], *meta['bottom']]),
    np.array(top),
    arch_interaction_op=interaction,
    arch_interaction_itself=itself,
    sigmoid_top=len(top) - 2,
    **meta.get('options', {}),
  )


def score_fb(path, meta, held):
  import torch

  model = facebook_model(meta).eval()
  loaded = torch.load(path, weights_only=True)
  model.load_state_dict(loaded['state_dict'])
  if 'optimizer' in meta:
    if meta['optimizer'] == 'rwsadagrad':
      from optim.rwsadagrad import RWSAdagrad as Optimizer
    else:
      Optimizer = {
        'sgd': torch.optim.SGD,
        'adagrad': torch.optim.Adagrad,
      }[meta['optimizer']]
    optimizer = Optimizer(model.parameters(), lr=0.1)
    optimizer.load_state_dict(loaded['opt_state_dict'])
  tables = range(len(meta['rows']))
  indices, offsets = (
    [torch.from_numpy(held[f'{name}{t}'].astype(np.int64)) for t in tables]
    for name in ('indices', 'offsets')
  )
  return model(torch.from_numpy(held['dense']), offsets, indices)


def why_absent(program):
  """Why a program cannot be imported; '' where it can."""
  try:
    if program == 'fb':
      if 'DLRM_JAX_FB_DLRM' not in os.environ:
        return 'DLRM_JAX_FB_DLRM names no checkout of facebookresearch/dlrm'
      sys.path.insert(0, os.environ['DLRM_JAX_FB_DLRM'])
      import dlrm_s_pytorch  # noqa: F401
    else:
      import torchrec  # noqa: F401
  except (ImportError, OSError) as error:
    return f'{program} cannot be imported: {error}'
  return ''


def main(program, model, inputs, outputs):
  import torch

  with np.load(inputs) as file:
    held = dict(file)
  meta = json.loads(str(held['meta']))
  score = score_fb if program == 'fb' else score_torchrec
  with torch.no_grad():
    np.savez(outputs, predictions=score(model, meta, held).numpy().reshape(-1))


if __name__ == '__main__':
  if sys.argv[2:]:
    main(*sys.argv[1:])
  else:
    print(why_absent(sys.argv[1]))
