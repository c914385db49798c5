"""Memory and traffic of a config, before it runs; `python -m dlrm_jax.plan`."""
