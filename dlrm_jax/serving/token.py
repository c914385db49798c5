"""Files with the token that requests bring."""

from pathlib import Path

from dlrm_jax.errors import InputError


def read_token(file: str | None) -> str:
  """The token in the file that --token_file names; '': none is named.

  Raises:
    InputError: the file has none.
  """
  if not file:
    return ''
  path = Path(file)
  try:
    token = path.read_bytes().strip().decode('ascii')
  except OSError as error:
    raise InputError(
      f'--token_file={path}: cannot be read: {error.strerror}'
    ) from None
  except UnicodeDecodeError:
    token = ''
  if not token or not token.isprintable() or ' ' in token:
    raise InputError(
      f'--token_file={path}: expected a token of printable ASCII in one line'
    )
  return token
