"""Statistics of a prepared set; `python -m dlrm_jax.inspect`."""
