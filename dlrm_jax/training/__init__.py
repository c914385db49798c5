"""State, step, checkpoints, the loop, evaluation and the report."""
