"""Quality against table size, by encoding; `python -m dlrm_jax.tradeoff`."""
