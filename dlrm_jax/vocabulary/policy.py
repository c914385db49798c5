"""What happens to an id that has no row: the two words of the config."""

STOP = 'stop'


UNKNOWN = 'unknown'
"""What to do with ids out of range: an error, or the unknown row."""
