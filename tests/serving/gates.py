"""Programs that wait, or fail, when a test wants it."""

import threading

from dlrm_jax.serving.refusal import RefusedError


class Gate:
  """A program that does not score until it is open.

  Attributes:
    sizes: number of rows of each call.
    open: whether calls go on.
    called: that a call has begun.
    seconds: what it says that a call takes; 1: so long that the event loop
      leaves it to the thread of the engine.
  """

  def __init__(self, program, fails=lambda inputs: False):
    self._program, self._fails = program, fails
    self.sizes, self.seconds = [], 1.0
    self.open, self.called = threading.Event(), threading.Event()

  def seconds_for(self, rows):
    return self.seconds

  def cuts(self, rows):
    return (next(size for size in self._program.sizes if size >= rows),)

  def check(self):
    self(self._program._padding(1))

  def __call__(self, inputs):
    self.called.set()
    assert self.open.wait(60)
    self.sizes.append(len(inputs.ids))
    if self._fails(inputs):
      raise RuntimeError('the device is lost\nand more')
    return self._program(inputs)


def gate_of(server, model, **options):
  """Puts a gate before the program of a served model; returns it."""
  engine = server.service.repository.find(model).engine
  gate = engine._program = Gate(engine._program, **options)
  return gate


def refusal(function, *arguments):
  """The `RefusedError` that a call raises."""
  try:
    function(*arguments)
  except RefusedError as error:
    return error
  raise AssertionError('it was not refused')
