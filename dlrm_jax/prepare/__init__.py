"""From raw logs to prepared data sets; `python -m dlrm_jax.prepare`."""
