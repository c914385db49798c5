"""A training run: workdir, loop, evaluation, history, what it prints."""
