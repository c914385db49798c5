"""A made-up click log whose best possible AUC is known."""
