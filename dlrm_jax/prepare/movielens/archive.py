"""MovieLens archives: found by name, downloaded and verified through TFDS."""

import urllib.request
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import (
  NonMatchingChecksumError,
)
from tensorflow_datasets.core.download.resource import get_dl_fname
from tensorflow_datasets.structured.movielens import Movielens

from dlrm_jax.errors import InputError


def url_of(name: str) -> str:
  """Address from which TFDS downloads a data set of ratings.

  Raises:
    InputError: TFDS has no such data set, or it has no ratings.
  """
  configs = Movielens.builder_configs
  known = [key for key in configs if key.endswith('-ratings')]
  if name not in known:
    raise InputError(
      f'movielens has no ratings named {name!r}; expected one of '
      f'{", ".join(known)}'
    )
  return str(configs[name].download_url)


def verify(archive: str, url: str) -> None:
  """Compares an archive with the checksum that TFDS has registered.

  Raises:
    InputError: the file is missing, or is another file.
  """
  try:
    actual = checksums.compute_url_info(archive)
  except OSError as error:
    raise InputError(
      f'{archive}: {error.strerror or error}; expected the archive {url}'
    ) from None
  expected = Movielens.url_infos[url]
  if actual.checksum != expected.checksum:
    raise InputError(
      f'{archive} is not the archive that TFDS {tfds.__version__} knows as '
      f'{url}: its sha256 is {actual.checksum}, expected {expected.checksum}; '
      'download it again'
    )


def downloads() -> Path:
  """The folder where TFDS keeps what it has downloaded."""
  return Path(constants.DATA_DIR).expanduser() / 'downloads'


def download(url: str, folder: Path) -> str:
  """Downloads an archive into a folder, unless TFDS did so before.

  Returns:
    Path of the archive, whose checksum TFDS has verified.

  Raises:
    InputError: the download failed, or the file there has changed.
  """
  infos = Movielens.url_infos
  try:
    if not (folder / get_dl_fname(url, infos[url].checksum)).exists():
      # Without a network, TFDS would try for minutes.
      urllib.request.urlopen(url, timeout=20).close()
    manager = tfds.download.DownloadManager(
      download_dir=folder, url_infos=infos
    )
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
