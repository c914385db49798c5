r"""Two tasks: a click, and the conversion that may follow it.

  python train.py --config=configs/multitask.py:esmm --workdir=runs/esmm

The data is a synthetic log with two labels: `click`, and `conversion`, which
only a click can have. Both are labels of every impression, so the second is
what Ma et al., "Entire Space Multi-Task Model" (arXiv 1804.07931) call CTCVR,
and the best possible AUC of each is known. Effects of single features and of
pairs are planted for each task, those of a conversion after the click. Without
the pairs, the best AUCs are lower by 0.05 (click) and 0.04 (conversion).

Variants:

* `shared_bottom`: one MLP that both tasks share, then a tower for each;
* `mmoe`: several MLPs, which each task mixes by a gate of its own;
* `esmm`: an MLP for the probability of a click and one for that of a conversion
  after it; the second output is the product.
"""

from ml_collections import ConfigDict

from dlrm_jax.configs import synthetic

_VARIANTS = ('shared_bottom', 'mmoe', 'esmm')


def get_config(variant: str = 'esmm') -> ConfigDict:
  """One pass over 12.6 M impressions, 3,072 steps.

  Args:
    variant: `shared_bottom`, `mmoe` or `esmm`.
  """
  if variant not in _VARIANTS:
    raise ValueError(
      f'variant {variant!r}: expected one of {", ".join(_VARIANTS)}'
    )
  config = synthetic.get_config()
  config.data.synthetic.tasks = 2
  config.data.synthetic.tables = (200, 100, 50, 20)
  config.data.synthetic.hotness = (1, 1, 1, 3)
  config.data.synthetic.strength.interaction = 0.8
  config.data.synthetic.strength.bias = -1.0
  config.model.name = variant
  config.model.top = (128, 64)
  if variant == 'shared_bottom':
    config.model.shared_bottom.shared = (256,)
    config.model.top = (64,)
  if variant == 'mmoe':
    config.model.mmoe.experts = 4
    config.model.mmoe.expert = (128,)
    config.model.top = (64,)
  config.optimizer.learning_rate = 0.003
  config.table_optimizer.learning_rate = 0.1
  # Conversions are rarer than clicks, and so is what can be learned of them.
  config.train.label_weights = (1.0, 2.0)
  return config
