"""The models of a server and their versions; loading, replacing, unloading.

All is called in the thread of the event loop; models are opened in others. A
new version is compiled before it takes the place of the old one, which then
answers what it has taken.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dlrm_jax.errors import InputError
from dlrm_jax.prepare.bad_rows import shorten
from dlrm_jax.scoring.load import mark_of
from dlrm_jax.serving import version as versions
from dlrm_jax.serving.log import Log
from dlrm_jax.serving.refusal import RefusedError, Why, line_of
from dlrm_jax.serving.version import Version

Open = Callable[[str, str, Path], Version]
"""Opens a version: name of the model, number, folder."""


class State(NamedTuple):
  """A line of the index of models.

  Attributes:
    model: name of the model.
    version: number of the version; '': there is none.
    ready: whether it is served.
    reason: why not, or why a newer one is not.
  """

  model: str
  version: str
  ready: bool
  reason: str


class _Hosted:
  """A model of the server.

  Attributes:
    folder: where its versions are.
    served: the versions that are served, by number, the default last.
    reason: why nothing, or nothing newer, is served; '' if all is well.
    unloaded: whether somebody unloaded it, so that none is missing.
    loading: held while versions are opened.
    opened: greatest number that a version had.
  """

  def __init__(self, folder: Path) -> None:
    self.folder = folder
    self.served: dict[str, Version] = {}
    self.reason = 'not loaded yet'
    self.unloaded = False
    self.loading = asyncio.Lock()
    self.opened = 0


class Repository:
  """The models of a server.

  Attributes:
    opening: number of versions that are being opened.
  """

  def __init__(
    self, folders: Mapping[str, Path], open_version: Open, log: Log
  ) -> None:
    """Loads nothing yet.

    Args:
      folders: folder of each model, by name.
      open_version: opens a version, in another thread.
      log: where events are written.
    """
    self._models = {name: _Hosted(path) for name, path in folders.items()}
    self._open, self._log = open_version, log
    self._leaving: set[asyncio.Task] = set()
    self.opening = 0

  @property
  def names(self) -> list[str]:
    """Names of all models."""
    return list(self._models)

  def ready(self) -> bool:
    """Whether every model is served that is not unloaded.

    A device that fails does not serve.
    """
    return all(
      hosted.served
      and not any(v.engine.failure for v in hosted.served.values())
      for hosted in self._models.values()
      if not hosted.unloaded
    )

  def _hosted(self, model: str) -> _Hosted:
    if model not in self._models:
      raise RefusedError(
        Why.UNKNOWN,
        f'there is no model {shorten(model)}; expected one of '
        f'{", ".join(self._models)}',
      )
    return self._models[model]

  def find(self, model: str, number: str = '') -> Version:
    """A version of a model; '': the default, which is the greatest.

    Raises:
      RefusedError: it is not served.
    """
    hosted = self._hosted(model)
    if not hosted.served:
      raise RefusedError(
        Why.UNAVAILABLE, f'model {model} is not served: {hosted.reason}'
      )
    if not number:
      return next(reversed(hosted.served.values()))
    if number not in hosted.served:
      raise RefusedError(
        Why.UNKNOWN,
        f'model {model} has no version {shorten(number)}; expected one of '
        f'{", ".join(hosted.served)}',
      )
    return hosted.served[number]

  def served(self, model: str = '') -> Iterator[Version]:
    """All versions that are served, of one model or of all ('')."""
    models = [self._hosted(model)] if model else self._models.values()
    for hosted in models:
      yield from hosted.served.values()

  def index(self) -> Iterator[State]:
    """The state of each model."""
    for name, hosted in self._models.items():
      for number, version in hosted.served.items():
        failure = version.engine.failure
        yield State(name, number, not failure, failure or hosted.reason)
      if not hosted.served:
        yield State(name, '', False, hosted.reason)

  async def load(self, model: str) -> None:
    """Serves what is in a model's folder now.

    Raises:
      RefusedError: there is no such model, or the device failed.
      InputError: a version cannot be loaded; then nothing changes.
    """
    hosted = self._hosted(model)
    async with hosted.loading:
      try:
        served, old = await self._opened(model, hosted)
      except InputError as error:
        hosted.reason = str(error)
        self._log('load failed', model=model, reason=hosted.reason)
        raise
      except Exception as error:
        hosted.reason = line_of(error)
        self._log('load failed', model=model, reason=hosted.reason)
        self._log.defect(error)
        raise RefusedError(
          Why.FAILED, f'model {model} is not loaded: {hosted.reason}'
        ) from error
      hosted.served, hosted.reason, hosted.unloaded = served, '', False
      for version in old:
        self._leave(version)
      for version in served.values():
        self._log('serving', **versions.about(version))

  async def _opened(
    self, model: str, hosted: _Hosted
  ) -> tuple[dict[str, Version], list[Version]]:
    """The versions to serve, of which some are new, and those to leave."""
    found = await asyncio.to_thread(versions.versions_in, hosted.folder)
    old, served = dict(hosted.served), {}
    opened: list[Version] = []
    try:
      for number, folder in found.items():
        same = next(
          (
            v
            for v in old.values()
            if v.card.folder == str(folder) and v.mark == mark_of(folder)
          ),
          None,
        )
        if same is None:
          # A folder without a number gets a new one with its content.
          label = str(number or hosted.opened + 1)
          same = await self._in_thread(model, label, folder)
          opened.append(same)
          hosted.opened = max(hosted.opened, int(label))
        served[same.number] = same
    except BaseException:
      for version in opened:
        version.engine.close()
      raise
    return served, [v for v in old.values() if v not in served.values()]

  async def _in_thread(self, model: str, number: str, folder: Path) -> Version:
    """Opens a version in a thread that does not hold up the end."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(version: Version | None, error: Exception | None) -> None:
      self.opening -= 1
      if future.cancelled():
        if version is not None:
          version.engine.close()
      elif error is not None:
        future.set_exception(error)
      else:
        future.set_result(version)

    def open_it() -> None:
      version = failed = None
      try:
        version = self._open(model, number, folder)
      except Exception as error:
        failed = error
      with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(settle, version, failed)

    self.opening += 1
    threading.Thread(target=open_it, daemon=True).start()
    return await future

  async def unload(self, model: str) -> None:
    """Serves a model no more.

    Raises:
      RefusedError: there is no such model.
    """
    hosted = self._hosted(model)
    async with hosted.loading:
      for version in hosted.served.values():
        self._leave(version)
      hosted.served, hosted.reason, hosted.unloaded = {}, 'unloaded', True
      self._log('unloaded', model=model)

  def _leave(self, version: Version) -> None:
    """Lets a version answer what it has taken, and forgets it."""
    version.engine.close()
    joined = asyncio.to_thread(version.engine.join)
    task = asyncio.create_task(joined)
    self._leaving.add(task)
    task.add_done_callback(self._leaving.discard)

  async def reload_all(self) -> None:
    """Loads all models again that are not unloaded.

    What cannot be loaded stays as it is.
    """
    for model, hosted in self._models.items():
      if hosted.unloaded:
        continue
      try:
        await self.load(model)
      except (InputError, RefusedError):
        continue  # the log has the reason

  async def close(self) -> None:
    """Answers what was taken, and ends."""
    for hosted in self._models.values():
      for version in hosted.served.values():
        self._leave(version)
    await asyncio.gather(*self._leaving)
