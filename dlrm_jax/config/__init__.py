"""Configs: their fields, files, kinds of change, and the command line."""
