"""From a config and a schema to the frozen objects that run."""
