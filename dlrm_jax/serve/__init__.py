"""Serves models by the Open Inference Protocol."""
