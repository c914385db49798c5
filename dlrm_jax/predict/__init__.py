"""Scores files of raw rows with a trained model."""
