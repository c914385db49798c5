import jax
import numpy as np

from dlrm_jax.embedding.table import uniform_by_rows


def test_tables_start_uniform_within_one_over_root_of_rows():
  values = np.asarray(uniform_by_rows(jax.random.key(0), (400, 32)))
  assert np.abs(values).max() <= 1 / 20
  np.testing.assert_allclose(values.std(), 1 / 20 / np.sqrt(3), rtol=0.03)
  assert abs(values.mean()) < 1e-3
