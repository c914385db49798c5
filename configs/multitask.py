r"""Two tasks: a click, and the conversion that may follow it.

  python train.py --config=configs/multitask.py:esmm --workdir=runs/esmm

The data is the synthetic log with two labels: `click`, and `conversion`, which
only a click can have. Both are labels of every impression, so the second is
what Ma et al. 2018 ("Entire Space Multi-Task Model", SIGIR) call CTCVR, and the
best possible AUC of each is known.

Variants:

* `shared_bottom`: layers that both tasks share, and layers of their own;
* `mmoe`: several groups of layers, which each task mixes by its own gate;
* `esmm`: one network for the probability of a click and one for that of a
  conversion after it; the second output is the product.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import synthetic

_VARIANTS = ('shared_bottom', 'mmoe', 'esmm')


def get_config(variant: str = 'esmm') -> ConfigDict:
  """The settings of the synthetic log, with two tasks.

  Args:
    variant: `shared_bottom`, `mmoe` or `esmm`.
  """
  if variant not in _VARIANTS:
    raise ValueError(
      f'variant {variant!r}: expected one of {", ".join(_VARIANTS)}'
    )
  config = synthetic.get_config()
  config.data.synthetic.tasks = 2
  config.model.name = variant
  return config
