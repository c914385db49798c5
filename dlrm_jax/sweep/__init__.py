"""Runs of many settings, ranked; `python -m dlrm_jax.sweep`."""
