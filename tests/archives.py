"""Archives of what earlier versions wrote."""

import tarfile


def unpack(archive, folder):
  """Unpacks a tar archive; Python before 3.11.4 has no argument `filter`."""
  with tarfile.open(archive) as packed:
    packed.extraction_filter = getattr(tarfile, 'data_filter', None)
    packed.extractall(folder)
