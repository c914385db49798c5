"""Load on a server, and what it answers; `python -m dlrm_jax.load_test`."""
