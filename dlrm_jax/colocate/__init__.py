"""Models beside each other on one machine; `python -m dlrm_jax.colocate`."""
