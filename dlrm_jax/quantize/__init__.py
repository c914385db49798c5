"""The command `python -m dlrm_jax.quantize`."""
