"""Tables of 8, 4 and 2 bits a value, in the bytes of other programs."""
