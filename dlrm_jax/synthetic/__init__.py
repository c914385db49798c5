"""A synthetic click log whose best possible AUC is known."""
