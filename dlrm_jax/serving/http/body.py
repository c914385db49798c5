"""Bodies of HTTP: read up to a limit, unpacked, packed."""

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.serving.refusal import RefusedError, Why, invalid

_SECONDS = 30  # for a body to come
_ANY = 32 + zlib.MAX_WBITS  # zlib or gzip, as the first bytes say
_WBITS = {'gzip': 16 + zlib.MAX_WBITS, 'deflate': zlib.MAX_WBITS}
_LEVEL = 1
_WORTH = 1024  # bytes; packing fewer takes longer than sending them


def _too_large(most: int) -> RefusedError:
  return RefusedError(
    Why.TOO_LARGE, f'the body has more than {most:,} bytes (--max_body)'
  )


class Bodies:
  """Reads bodies, of which only so many bytes are held at a time."""

  def __init__(self, most: int, most_together: int) -> None:
    """Sets limits.

    Args:
      most: bytes of a body, packed and unpacked.
      most_together: bytes of the bodies that are being read.
    """
    self._most, self._most_together = most, most_together
    self._held = 0

  async def read(self, request: Request) -> bytes:
    """The body of a request, unpacked.

    Raises:
      RefusedError: it is too large, too slow, or damaged.
    """
    length = request.headers.get('content-length', '0')
    if length.isdigit() and int(length) > self._most:
      raise _too_large(self._most)
    held = bytearray()
    try:
      async with asyncio.timeout(_SECONDS):
        async for part in request.stream():
          held += part
          self._held += len(part)
          if len(held) > self._most:
            raise _too_large(self._most)
          if self._held > self._most_together:
            raise RefusedError(
              Why.FULL, 'too many bodies are being read; try again'
            )
    except TimeoutError:
      raise RefusedError(
        Why.LATE, f'the body did not come within {_SECONDS} seconds'
      ) from None
    except ClientDisconnect:
      raise invalid('the client went before its body had come') from None
    finally:
      self._held -= len(held)
    return self._unpacked(
      bytes(held), request.headers.get('content-encoding', 'identity').lower()
    )

  def _unpacked(self, body: bytes, encoding: str) -> bytes:
    if encoding == 'identity':
      return body
    if encoding not in _WBITS:
      raise RefusedError(
        Why.UNSUPPORTED,
        f'Content-Encoding is {shorten(encoding)}; expected '
        f'{" or ".join(_WBITS)}',
      )
    unpacking = zlib.decompressobj(_ANY)
    try:
      unpacked = unpacking.decompress(body, self._most + 1)
    except zlib.error as error:
      raise invalid(f'the body is no {encoding}: {error}') from None
    if len(unpacked) > self._most:
      raise _too_large(self._most)
    if not unpacking.eof or unpacking.unused_data:
      raise invalid(f'the body is not one whole stream of {encoding}')
    return unpacked


def packed(body: bytes, accepted: str) -> tuple[bytes, str]:
  """A body as a client takes it, and its encoding; '': as it is.

  Args:
    body: the body.
    accepted: the header `Accept-Encoding`.
  """
  if len(body) < _WORTH or not accepted:
    return body, ''
  accepted = accepted.replace(' ', '').lower()
  words = [word.split(';') for word in accepted.split(',')]
  taken = {name for name, *rest in words if rest not in (['q=0'], ['q=0.0'])}
  for encoding, wbits in _WBITS.items():
    if encoding in taken:
      packing = zlib.compressobj(_LEVEL, wbits=wbits)
      return packing.compress(body) + packing.flush(), encoding
  return body, ''
