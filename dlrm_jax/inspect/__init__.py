"""Statistics of a prepared data set; `python -m dlrm_jax.inspect`."""
