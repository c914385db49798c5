"""Checkpoints: written, restored, moved between layouts, checked."""
