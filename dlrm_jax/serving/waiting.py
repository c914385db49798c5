"""Requests that wait, their answers, and the limits on both."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dlrm_jax.serving.interface import Question
from dlrm_jax.serving.refusal import RefusedError


class Limits(NamedTuple):
  """How much waits, and how much is joined.

  Attributes:
    max_batch: most rows of a batch, and of a request.
    max_delay: seconds to wait for more rows; 0: none.
    max_queue_rows: most rows that wait.
  """

  max_batch: int
  max_delay: float
  max_queue_rows: int


class Times(NamedTuple):
  """When a request was where, in seconds of `time.perf_counter`.

  Attributes:
    arrived: it came to the queue.
    taken: it left the queue.
    coded: its batch became inputs of the network.
    scored: its batch was scored.
  """

  arrived: float
  taken: float
  coded: float
  scored: float


class Answer(NamedTuple):
  """The answer to a request.

  Attributes:
    scores: probability and logit, f32[B, T, 2].
    times: how long it took.
  """

  scores: np.ndarray
  times: Times


class Waiting:
  """A request in the queue.

  Attributes:
    question: its rows.
    arrived: when it came, by `time.perf_counter`.
    deadline: when it is too late, likewise.
    gone: whether nobody waits for the answer any more.
    result: the answer, or why there is none, once there is one.
  """

  __slots__ = ('arrived', 'deadline', 'gone', 'owner', 'question', 'result')

  def __init__(
    self, question: Question, deadline: float, owner: object
  ) -> None:
    self.question = question
    self.arrived = time.perf_counter()
    self.deadline = deadline
    self.owner = owner
    self.gone = False
    self.result: Answer | RefusedError | None = None


class Batch(NamedTuple):
  """What was joined.

  Attributes:
    requests: the requests, with their results.
    rows: number of rows that were scored.
    times: when; None where nothing was scored.
    unknown: how many ids of each feature were unknown.
    error: what the device said, where it failed.
    defect: why the server itself failed.
  """

  requests: list[Waiting]
  rows: int = 0
  times: Times | None = None
  unknown: Mapping[str, int] = {}
  error: Exception | None = None
  defect: Exception | None = None
