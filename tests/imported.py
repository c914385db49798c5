"""What most commands import, for the server that they are forked from.

Nothing here may open a backend of JAX or start a pool of threads: the forked
processes would have no use of it. The modules of the commands themselves are
absent, since each is run as `__main__`.
"""

import importlib

for _name in (
  'matplotlib.backends.backend_agg',
  'orbax.checkpoint',
  'polars',
  'scipy.special',
  'tensorboardX',
  'dlrm_jax.build.restored',
  'dlrm_jax.build.run',
  'dlrm_jax.export.write',
  'dlrm_jax.run.sample',
  'dlrm_jax.run.sample_logits',
  'dlrm_jax.inspect.inspection',
  'dlrm_jax.plan.advice',
  'dlrm_jax.plan.compiled',
  'dlrm_jax.plan.forecast',
  'dlrm_jax.predict.columns',
  'dlrm_jax.prepare.request',
  'dlrm_jax.prepare.pipeline',
  'dlrm_jax.report.run_page',
  'dlrm_jax.run.comparison',
  'dlrm_jax.run.loop',
  'dlrm_jax.run.profile',
  'dlrm_jax.run.room',
  'dlrm_jax.run.scores',
  'dlrm_jax.run.summary',
  'dlrm_jax.scoring.load',
  'dlrm_jax.scoring.row_files',
  'dlrm_jax.scoring.sources',
  'dlrm_jax.sweep.ranking',
  'dlrm_jax.sweep.trials',
  'dlrm_jax.tradeoff.runs',
  'dlrm_jax.tradeoff.study',
):
  importlib.import_module(_name)
