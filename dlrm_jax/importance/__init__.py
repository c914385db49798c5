"""Command that measures how much a model needs each feature."""
