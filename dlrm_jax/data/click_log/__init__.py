"""The TFDS builder of prepared click logs, in a folder as TFDS wants it."""
