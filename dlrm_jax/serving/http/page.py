"""The page for people, and what it asks for."""

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from dlrm_jax.serving.repository import Repository


def read_page() -> tuple[str, str]:
  """The page, and its content policy, which allows its own script alone."""
  html = (
    resources.files('dlrm_jax.serving.http').joinpath('page.html').read_text()
  )
  found = re.search(r'<script>(.*)</script>', html, re.S)
  assert found is not None
  digest = hashlib.sha256(found[1].encode()).digest()
  script = base64.b64encode(digest).decode()
  policy = (
    "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; "
    f"script-src 'sha256-{script}'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
  )
  return html, policy


def models_of(repository: Repository) -> list[dict[str, Any]]:
  """The models, their load and their columns."""
  served = {(v.model, v.number): v for v in repository.served()}
  found = []
  for state in repository.index():
    version = served.get((state.model, state.version))
    line: dict[str, Any] = {
      'model': state.model,
      'version': state.version,
      'reason': state.reason,
      'step': '',
      'requests': 0.0,
      'p50': 0.0,
      'p99': 0.0,
      'queue_rows': 0,
    }
    if version is not None:
      line |= version.statistics.recent()._asdict() | {
        'step': version.card.step,
        'queue_rows': version.engine.queue_rows,
        'columns': [column._asdict() for column in version.columns],
      }
    found.append(line)
  return found
