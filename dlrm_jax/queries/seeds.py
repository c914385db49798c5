"""First numbers of seeds, one for each use.

Without them two uses would draw the same numbers, as (7,) and (7, 0) are the
same seed to NumPy.
"""

ARRIVALS, SIZES, CONTENT = 1, 2, 3
"""When queries come, how many items they have, and what is in them."""
