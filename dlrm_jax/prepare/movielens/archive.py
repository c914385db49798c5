"""Archives of MovieLens: got, compared with their checksum, unpacked.

TFDS unpacks with TensorFlow. It does not unpack what lies unpacked where it
looks first, and that is what is used here.
"""

import urllib.request
import zipfile
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import (
  NonMatchingChecksumError,
)
from tensorflow_datasets.structured import movielens

from dlrm_jax.errors import InputError


def check(archive: str, url: str) -> None:
  """Compares an archive with the checksum that TFDS has registered.

  Raises:
    InputError: it is not there, or it is another file.
  """
  try:
    found = checksums.compute_url_info(archive)
  except OSError as error:
    raise InputError(
      f'{archive}: {error.strerror or error}; expected the archive {url}'
    ) from None
  wanted = movielens.Movielens.url_infos[url]
  if found.checksum != wanted.checksum:
    raise InputError(
      f'{archive} is not the archive that TFDS {tfds.__version__} knows as '
      f'{url}: its sha256 is {found.checksum}, expected {wanted.checksum}; '
      'download it again'
    )


def download(url: str, folder: Path) -> str:
  """Lets TFDS download an archive into a folder; it compares the checksum.

  Raises:
    InputError: it cannot be downloaded, or is another file by now.
  """
  manager = tfds.download.DownloadManager(
    download_dir=folder, url_infos=movielens.Movielens.url_infos
  )
  try:
    # Without a network, TFDS would try for minutes.
    urllib.request.urlopen(url, timeout=20).close()
    return str(manager.download(url))
  except (OSError, tfds.download.DownloadError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise InputError(
      f'{url} cannot be downloaded ({reason[:200]}); download it where you '
      'can, and pass --input=FILE'
    ) from None
  except NonMatchingChecksumError:
    raise InputError(
      f'{url} has changed since TFDS {tfds.__version__} was made (another '
      'sha256); upgrade tensorflow-datasets, or pass --input=FILE with the '
      'archive as it was'
    ) from None


def unpack(
  archive: str, url: str, folder: Path
) -> tfds.download.DownloadConfig:
  """Puts archive and extracted folder where TFDS looks for them.

  Args:
    archive: the zip, checked.
    url: where it comes from.
    folder: gets the folders `manual` and `extracted`.

  Returns:
    What tells TFDS of the two.
  """
  name = movielens.Movielens.url_infos[url].filename
  manual, extracted = folder / 'manual', folder / 'extracted'
  manual.mkdir()
  (manual / name).symlink_to(Path(archive).absolute())
  with zipfile.ZipFile(archive) as packed:  # takes no path out of the folder
    packed.extractall(extracted / f'ZIP.{name}')
  return tfds.download.DownloadConfig(
    manual_dir=manual, extract_dir=extracted, try_download_gcs=False
  )
