"""DLRM and its kin in JAX: tables, interaction, training, evaluation."""
