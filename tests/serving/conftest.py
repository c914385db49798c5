"""Servers that tests share."""

import pytest

from tests import scored
from tests.serving import served
from tests.serving.gates import Gate


@pytest.fixture(scope='session')
def server(export, weighted, two_labels):
  """A server of an export, a run with weights, and one of two labels."""
  folders = {'ctr': export, 'two': two_labels.folder, 'bags': weighted.folder}
  with served.serving(folders) as running:
    yield running


@pytest.fixture(scope='session')
def small_server(export):
  """A server of small batches, with little room."""
  with served.serving({'ctr': export}, served.SMALL) as running:
    yield running


@pytest.fixture
def small(small_server):
  """The same, whose program is its own again after a test."""
  engine = small_server.service.repository.find('ctr').engine
  program = engine._program
  yield small_server
  if isinstance(engine._program, Gate):
    engine._program.open.set()
  engine._program = program


@pytest.fixture(scope='session')
def inputs(plain):
  """What the network takes of the rows of a split."""
  return scored.blocks_of(plain.data, 'test')


@pytest.fixture(scope='session')
def want(plain, inputs):
  """Their probabilities."""
  return plain.probabilities(inputs)
