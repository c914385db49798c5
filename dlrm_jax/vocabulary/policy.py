"""What happens to an id without a row: words of `config.data.out_of_range`."""

STOP = 'stop'
"""An id without a row is an error."""

UNKNOWN = 'unknown'
"""An id without a row gets row 0, and is counted."""
