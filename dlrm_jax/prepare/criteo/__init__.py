"""Click logs in the format of Criteo."""
