"""Raw values to numbers, ids, bags, labels and times, by a config's rules."""
