"""What a config needs and moves, before it runs; `python -m dlrm_jax.plan`."""
