"""Loads a converted model in the program that it is for, and scores inputs.

  python tests/convert/peer.py PROGRAM
  python tests/convert/peer.py PROGRAM MODEL INPUTS.npz OUTPUTS.npz

A process of its own, whose Python has that program; it imports nothing of this
project. MODEL is a `.pt` file, or a folder of torch.distributed.checkpoint.
INPUTS.npz has `dense`, `indicesT` and `offsetsT` of each table, and `meta`, the
sizes of the model as JSON. OUTPUTS.npz gets `predictions`, probabilities. With
PROGRAM alone the reason is printed why it cannot be imported, or an empty line.
The checkout of facebookresearch/dlrm is named by DLRM_JAX_FB_DLRM.
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


def score_torchrec(path, meta, held):
  import torch
  from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

  model = torchrec_model(meta).eval()
  state = model.state_dict()
  if os.path.isdir(path):
    torch.distributed.checkpoint.load(state, checkpoint_id=path, no_dist=True)
  else:
    state = torch.load(path, weights_only=True)
  model.load_state_dict(state)
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
